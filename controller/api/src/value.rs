//! Values that stand in many documents: times, bytes, reasons, errors.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ensign_bundle::reason::{Code, Refusal};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// Seconds since the epoch; RFC 3339 UTC in JSON (`2026-12-01T02:00:00Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct Time(pub u64);

/// Bytes; standard base64 with padding (RFC 4648 §4) in JSON.
#[derive(Clone, Default, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = Byte)]
pub struct Base64(pub Vec<u8>);

/// Why something is as it is: a code for scripts, a text for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    #[schema(value_type = String, example = "too-many-failed")]
    pub code: Code,
    pub text: String,
}

/// What every failing request answers, and what `-o json` prints on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDocument {
    pub error: ErrorBody,
}

/// What went wrong, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    #[schema(value_type = String, example = "downgrade-refused")]
    pub code: Code,
    /// The exit code that a command ends with.
    #[schema(example = 21)]
    pub exit: u8,
    pub message: String,
    /// What to type or do next.
    pub hint: String,
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code,
            text: refusal.text,
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason.code, reason.text)
    }
}

impl From<&Refusal> for ErrorDocument {
    fn from(refusal: &Refusal) -> Self {
        Self {
            error: ErrorBody {
                code: refusal.code,
                exit: refusal.code.exit(),
                message: refusal.text.clone(),
                hint: refusal.hint().to_owned(),
            },
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.0}")
    }
}

impl FromStr for Time {
    type Err = String;

    /// Any RFC 3339 time after 1970; fractions of a second are dropped.
    fn from_str(text: &str) -> Result<Self, String> {
        let time: jiff::Timestamp = text.parse().map_err(|e: jiff::Error| e.to_string())?;
        u64::try_from(time.as_second())
            .map(Self)
            .map_err(|_| format!("`{text}` is before 1970"))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        STANDARD
            .decode(String::deserialize(deserializer)?)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_utc() {
        let time = Time(1_796_090_400);
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, "\"2026-12-01T02:00:00Z\"");
        assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), time);
        assert_eq!("2026-12-01T03:00:00.9+01:00".parse(), Ok(time));
        assert!("1969-01-01T00:00:00Z".parse::<Time>().is_err());
    }

    #[test]
    fn errors_have_the_shape_that_scripts_read() {
        let document = ErrorDocument::from(&Refusal::new(Code::DowngradeRefused, "1.0.0 is older than 1.1.0"));
        let json = serde_json::to_value(document).unwrap();
        assert_eq!(json["error"]["code"], "downgrade-refused");
        assert_eq!(json["error"]["exit"], 21);
        assert!(json["error"]["message"].is_string() && json["error"]["hint"].is_string());
    }

    #[test]
    fn bytes_are_base64() {
        let json = serde_json::to_string(&Base64(vec![0xff, 0xfe])).unwrap();
        assert_eq!(json, "\"//4=\"");
        assert_eq!(serde_json::from_str::<Base64>(&json).unwrap().0, [0xff, 0xfe]);
    }
}
