use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// `orrery.v1.Json`: a JSON value as its text. It goes through serde untouched, to the last digit.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Json {
    /// One JSON value (RFC 8259).
    #[prost(string, tag = "1")]
    pub text: String,
}

impl Json {
    /// Wraps a text that is known to be one JSON value.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// The JSON text of a value.
    ///
    /// # Errors
    /// Where the value has no JSON, such as a map with keys that are no strings.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_string(value).map(Self::new)
    }

    /// Reads the text as a type.
    ///
    /// # Errors
    /// Where the text is not JSON or does not fit the type.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.text)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.text.is_empty() {
            return serializer.serialize_unit();
        }
        serde_json::from_str::<&RawValue>(&self.text).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer).map_err(D::Error::custom)?;
        Ok(Self::new(raw.get()))
    }
}
