/// The JSON of an enum: its documented names; numbers and the names of the proto file are read as well.
macro_rules! enum_json {
    ($name:ident, [$(($text:literal, $number:literal)),* $(,)?]) => {
        impl $name {
            /// The name in JSON.
            pub fn as_json_str(&self) -> &'static str {
                match *self as i32 {
                    $($number => $text,)*
                    _ => "",
                }
            }

            /// The value of a JSON name.
            pub fn from_json_str(text: &str) -> Option<Self> {
                match text {
                    $($text => Self::try_from($number).ok(),)*
                    _ => Self::from_str_name(text),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_json_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                const NAMES: &[&str] = &[$($text),*];
                struct Name;
                impl serde::de::Visitor<'_> for Name {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("one of ")?;
                        f.write_str(&NAMES[1..].join(", "))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<$name, E> {
                        $name::from_json_str(text)
                            .filter(|value| *value as i32 != 0)
                            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> std::result::Result<$name, E> {
                        i32::try_from(number)
                            .ok()
                            .and_then(|n| $name::try_from(n).ok())
                            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> std::result::Result<$name, E> {
                        self.visit_i64(i64::try_from(number).unwrap_or(-1))
                    }
                }
                deserializer.deserialize_any(Name)
            }
        }
    };
}
pub(crate) use enum_json;
