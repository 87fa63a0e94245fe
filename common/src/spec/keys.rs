//! The keys of a job file as its types describe them: what refusals and the example are made from.

use super::JobSpec;
use serde_json::Value;
use std::borrow::Cow;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A table of a job file, with its keys in the order of their declaration.
#[derive(Debug)]
pub(super) struct Table {
    /// Its dotted name, empty for the outermost.
    pub(super) path: String,
    /// What it is for.
    pub(super) doc: String,
    /// Its keys, other tables among them.
    pub(super) keys: Vec<Key>,
}

/// A key of a job file.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Its dotted name.
    pub(super) path: String,
    /// What it does, its range, and what it costs.
    pub(super) doc: String,
    /// Whether a job without it is refused.
    pub(super) is_required: bool,
    /// Whether it is a table, which stands for itself among the tables.
    pub(super) is_table: bool,
    /// Whether it takes text and nothing else.
    pub(super) is_text: bool,
    /// The words it takes, where they are few.
    pub(super) words: Vec<String>,
    /// A value to show where it is off by default.
    pub(super) example: Option<Value>,
}

impl Key {
    /// Its name in its table.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// Whether a job file has this dotted key or table.
pub fn is_key(path: &str) -> bool {
    find(path).is_some()
}

/// Whether the dotted key takes text only, so that `123` given for it means the text.
pub fn wants_text(path: &str) -> bool {
    find(path).is_some_and(|key| key.is_text)
}

/// The key of this dotted name.
pub(super) fn find(path: &str) -> Option<Key> {
    tables().into_iter().flat_map(|table| table.keys).find(|key| key.path == path)
}

/// The value of a dotted key of a job; of no key, the job.
pub(super) fn at<'a>(job: &'a Value, path: &str) -> Option<&'a Value> {
    job.pointer(&pointer(path))
}

/// A dotted key as JSON has it.
pub(super) fn pointer(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("/{}", path.replace('.', "/")) }
}

/// Every table: the outermost first, then in the order of their declaration.
pub(super) fn tables() -> Vec<Table> {
    let mut named = Vec::new();
    JobSpec::schemas(&mut named);
    let mut tables = Vec::new();
    if let RefOr::T(Schema::Object(job)) = JobSpec::schema() {
        collect("", "", &job, &named, &mut tables);
    }
    tables
}

type Named = [(String, RefOr<Schema>)];

fn collect(path: &str, doc: &str, object: &Object, named: &Named, tables: &mut Vec<Table>) {
    let place = tables.len();
    tables.push(Table { path: path.into(), doc: doc.into(), keys: Vec::new() });
    for (name, schema) in &object.properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some((doc, inner)) = resolve(schema, named) else { continue };
        let is_table = !inner.properties.is_empty();
        if is_table {
            collect(&path, &doc, &inner, named, tables);
        }
        tables[place].keys.push(Key {
            path,
            doc,
            is_required: object.required.contains(name),
            is_table,
            is_text: is_text(&inner.schema_type),
            words: words(&inner),
            example: inner.example.clone(),
        });
    }
}

/// A property's own description, and what it is.
fn resolve<'a>(schema: &'a RefOr<Schema>, named: &'a Named) -> Option<(String, Cow<'a, Object>)> {
    let (doc, inner) = match schema {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next()?;
            let (_, inner) = named.iter().find(|(other, _)| other == name)?;
            (Some(&reference.description), inner)
        }
        RefOr::T(_) => (None, schema),
    };
    let object = match inner {
        RefOr::T(Schema::Object(object)) => Cow::Borrowed(object),
        // A list of values is a key like any other.
        RefOr::T(Schema::Array(list)) => {
            let types = list.schema_type.clone();
            let mut object = ObjectBuilder::new().schema_type(types).build();
            object.description.clone_from(&list.description);
            object.example.clone_from(&list.example);
            Cow::Owned(object)
        }
        RefOr::T(_) | RefOr::Ref(_) => return None,
    };
    let doc = doc.or(object.description.as_ref()).cloned().unwrap_or_default();
    Some((doc.replace('\n', " "), object))
}

fn is_text(types: &SchemaType) -> bool {
    match types {
        SchemaType::Type(one) => *one == Type::String,
        SchemaType::Array(many) => many.iter().all(|one| matches!(one, Type::String | Type::Null)),
        SchemaType::AnyValue => false,
    }
}

fn words(object: &Object) -> Vec<String> {
    let values = object.enum_values.iter().flatten();
    values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}
