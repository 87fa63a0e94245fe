//! A row's fields, each refusal naming the field by its path: `passage.questions[3].question`.

use ptv2_common::error::Explained;
use serde_json::Value;

/// A JSON value and where it stands in its row.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    value: &'a Value,
    /// Empty for the row itself.
    path: String,
}

impl<'a> Fields<'a> {
    /// A whole row.
    ///
    /// # Errors
    /// When it is no object.
    pub(super) fn of(row: &'a Value) -> Result<Self, Explained> {
        if row.is_object() {
            return Ok(Self { value: row, path: String::new() });
        }
        Err(Explained::new(format!("the row is {}", kind(row)))
            .expected("a JSON object with the task's fields"))
    }

    /// A field, if the row has it.
    pub(super) fn optional(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field)
    }

    /// A field that holds text.
    pub(super) fn text(&self, field: &str) -> Result<&'a str, Explained> {
        let expected = "a string";
        let value = self.required(field, expected)?;
        value.as_str().ok_or_else(|| self.mistyped(field, expected))
    }

    /// A field that holds a number from 0 to 4294967295.
    pub(super) fn number(&self, field: &str) -> Result<u32, Explained> {
        let expected = "an integer from 0 to 4294967295";
        let value = self.required(field, expected)?;
        whole(value).ok_or_else(|| self.mistyped(field, expected))
    }

    /// A field that holds further fields.
    pub(super) fn inner(&self, field: &str) -> Result<Self, Explained> {
        let expected = "an object";
        let value = self.required(field, expected)?;
        if value.is_object() {
            return Ok(Self { value, path: self.place(field) });
        }
        Err(self.mistyped(field, expected))
    }

    /// The objects of a list.
    pub(super) fn list(&self, field: &str) -> Result<Vec<Self>, Explained> {
        let expected = "a list of objects";
        let items = self.required(field, expected)?.as_array();
        let items = items.ok_or_else(|| self.mistyped(field, expected))?;
        let mut found = Vec::with_capacity(items.len());
        for (index, value) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.place(field));
            if !value.is_object() {
                return Err(refused(&path, value, "an object"));
            }
            found.push(Self { value, path });
        }
        Ok(found)
    }

    /// A refusal of a field's value.
    pub(super) fn mistyped(&self, field: &str, expected: &str) -> Explained {
        refused(&self.place(field), self.value.get(field).unwrap_or(&Value::Null), expected)
    }

    /// Where a field of these stands in its row.
    pub(super) fn place(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    fn required(&self, field: &str, expected: &str) -> Result<&'a Value, Explained> {
        self.value.get(field).ok_or_else(|| {
            Explained::new(format!("`{}` is missing", self.place(field))).expected(expected)
        })
    }
}

/// A number from 0 to 4294967295; AX-b writes its own as text.
pub(super) fn whole(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

/// A short value as it is written, of a long one only its kind.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 60 { text } else { kind(value).into() }
}

fn refused(path: &str, value: &Value, expected: &str) -> Explained {
    Explained::new(format!("`{path}` is {}", shown(value))).expected(expected)
}

/// What kind of value it is, for people.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_names_the_path() {
        let row = json!({"a": {"b": [{"c": 1}, 2]}, "n": -1, "s": "12"});
        let fields = Fields::of(&row).unwrap();
        let what = |error: Explained| error.what;
        let inner = fields.inner("a").unwrap();
        assert_eq!(what(inner.list("b").unwrap_err()), "`a.b[1]` is 2");
        assert_eq!(what(inner.list("d").unwrap_err()), "`a.d` is missing");
        assert_eq!(what(fields.number("n").unwrap_err()), "`n` is -1");
        assert_eq!(fields.number("s").unwrap(), 12);
        let row = json!({"b": [{"c": 1}]});
        let fields = Fields::of(&row).unwrap();
        let item = &fields.list("b").unwrap()[0];
        assert_eq!(what(item.text("c").unwrap_err()), "`b[0].c` is 1");
        assert_eq!(what(Fields::of(&json!([1])).unwrap_err()), "the row is an array");
    }
}
