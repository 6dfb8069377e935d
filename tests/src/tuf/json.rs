//! JSON as signed metadata may have it (no field twice, no fractions), and its canonical form.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Parses `bytes`, all of them.
pub(super) fn parse(bytes: &[u8]) -> Result<Value> {
    let Strict = serde_json::from_slice(bytes).context("not the JSON of metadata")?;
    serde_json::from_slice(bytes).context("not JSON")
}

/// OLPC canonical JSON: keys sorted by code points, no white space, only `"` and `\` escaped. What signatures are over.
pub(super) fn canonical(value: &Value) -> Result<Vec<u8>> {
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out.into_bytes())
}

fn write(value: &Value, out: &mut String) -> Result<()> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => write!(out, "{value}")?,
        Value::Number(value) if value.is_f64() => bail!("canonical JSON has no fraction {value}"),
        Value::Number(value) => write!(out, "{value}")?,
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            // The order of UTF-8 bytes is that of code points.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (at, (name, field)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_text(name, out);
                out.push(':');
                write(field, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Any JSON in which no object has a field twice: two readers could take different ones.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON without fractions")
    }

    fn visit_unit<E: Error>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        while let Some(Strict) = items.next_element()? {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Strict, A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let Strict = fields.next_value()?;
            if let Some(twice) = seen.replace(name) {
                return Err(A::Error::custom(format_args!("the field `{twice}` stands twice")));
            }
        }
        Ok(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_is_sorted_and_escapes_two_characters() {
        let value =
            parse("{\"b\\u0000\": [1, -2, null, true], \"a\": {\"\\\"\\\\\\n\": \"\u{e9}\u{1f600}\"}}".as_bytes())
                .unwrap();
        let expected = "{\"a\":{\"\\\"\\\\\n\":\"\u{e9}\u{1f600}\"},\"b\0\":[1,-2,null,true]}";
        assert_eq!(canonical(&value).unwrap(), expected.as_bytes());
    }

    #[test]
    fn what_readers_could_take_differently_is_refused() {
        for text in [
            "{\"a\":1,\"a\":1}",
            "[{\"x\":{\"a\":1,\"a\":2}}]",
            "1.5",
            "1 2",
            "",
            "{",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
