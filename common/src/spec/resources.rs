//! Values of a job file that are written as text: a range of workers, an interval.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// How many workers a job may have, written `"2"` or `"1..4"` (both ends included).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerRange {
    /// The job waits for this many.
    pub min: u32,
    /// More than this many are not given.
    pub max: u32,
}

impl Default for WorkerRange {
    fn default() -> Self {
        Self { min: 1, max: 64 }
    }
}

impl FromStr for WorkerRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no number of workers; expected `N` or `MIN..MAX`, at least 1");
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (min.trim(), max.trim()),
            None => (text.trim(), text.trim()),
        };
        let min: u32 = min.parse().map_err(|_| wrong())?;
        let max: u32 = max.parse().map_err(|_| wrong())?;
        if min == 0 || max < min { Err(wrong()) } else { Ok(Self { min, max }) }
    }
}

impl fmt::Display for WorkerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}..{}", self.min, self.max)
        }
    }
}

impl Serialize for WorkerRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkerRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = WorkerRange;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of workers, `N` or `\"MIN..MAX\"`")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<WorkerRange, E> {
                value.to_string().parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<WorkerRange, E> {
                value.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<WorkerRange, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How often something happens: after a time, or after a number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// After this much time.
    Time(Duration),
    /// After this many optimizer steps.
    Steps(u64),
}

impl Default for Interval {
    fn default() -> Self {
        Self::Time(Duration::from_secs(60))
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Time(time) => serializer.collect_str(&humantime::format_duration(*time)),
            Self::Steps(steps) => serializer.serialize_u64(*steps),
        }
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Interval;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as `\"60s\"`, or a number of steps above 0")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Interval, E> {
                if value == 0 {
                    return Err(E::invalid_value(de::Unexpected::Unsigned(0), &self));
                }
                Ok(Interval::Steps(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Interval, E> {
                u64::try_from(value)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
                    .and_then(|value| self.visit_u64(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Interval, E> {
                humantime::parse_duration(value)
                    .map(Interval::Time)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

// Both are a string or a number on the wire, whatever their fields are.
impl ToSchema for WorkerRange {}
impl PartialSchema for WorkerRange {
    fn schema() -> RefOr<Schema> {
        text_or_number()
    }
}

impl ToSchema for Interval {}
impl PartialSchema for Interval {
    fn schema() -> RefOr<Schema> {
        text_or_number()
    }
}

fn text_or_number() -> RefOr<Schema> {
    let types = SchemaType::from_iter([Type::String, Type::Integer]);
    ObjectBuilder::new().schema_type(types).into()
}
