//! Log lines as JSON, one object a line, with what they are about as fields of their own.

use serde_json::{Map, Value};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// One object a line: time, level, target, and `fields`. Job, generation and rank are set once, for all that a
/// thread does for them (a span); each of its lines has them among its fields, beside those of its own.
pub(super) struct Flat;

impl<S, N> FormatEvent<S, N> for Flat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            // Formatted as JSON when the span began.
            if let Some(known) = extensions.get::<FormattedFields<N>>()
                && let Ok(Value::Object(known)) = serde_json::from_str(known)
            {
                fields.0.extend(known);
            }
        }
        event.record(&mut fields);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let line = serde_json::json!({
            "timestamp": timestamp,
            "level": metadata.level().as_str(),
            "fields": fields.0,
            "target": metadata.target(),
        });
        writeln!(writer, "{}", crate::log::in_json(&line.to_string()))
    }
}

/// Fields of a line, by name.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_has_the_fields_of_what_it_is_about() {
        let kept = Kept::default();
        let log = tracing_subscriber::fmt().with_writer(kept.clone()).json().event_format(Flat);
        tracing::subscriber::with_default(log.finish(), || {
            let span =
                tracing::error_span!("generation", job = "j1", generation = 3_u64, rank = 0_u32);
            let _about = span.enter();
            tracing::warn!(step = 7_u64, note = %"of \"text\"\n", "it goes on");
        });
        let lines = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.matches('\n').count(), 1, "{lines}");
        let line: Value = serde_json::from_str(&lines).unwrap();
        let expected = serde_json::json!({"job": "j1", "generation": 3, "rank": 0, "step": 7,
            "note": "of \"text\"\n", "message": "it goes on"});
        assert_eq!(line["fields"], expected);
        assert_eq!((&line["level"], line["target"].is_string()), (&"WARN".into(), true));
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
