use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A number as callers write it: `30`, `"30"` (proto3 JSON writes 64-bit integers so), or `30.0` (some languages know no other).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<T>(pub(crate) T);

/// A kind of number, read without loss or not at all.
pub(crate) trait Numeric: Sized {
    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result;
    fn of_integer(number: i128) -> Option<Self>;
    fn of_float(number: f64) -> Option<Self>;
}

macro_rules! whole {
    ($($kind:ty),*) => {$(
        impl Numeric for $kind {
            fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {} to {}", <$kind>::MIN, <$kind>::MAX)
            }

            fn of_integer(number: i128) -> Option<Self> {
                Self::try_from(number).ok()
            }

            fn of_float(number: f64) -> Option<Self> {
                // Written out, so that none is rounded; beyond 10^18 a float does not tell which integer was meant.
                let is_whole = number.fract() == 0.0 && number.abs() < 1e18;
                format!("{number:.0}").parse().ok().filter(|_| is_whole)
            }
        }
    )*};
}

whole!(i32, i64, u32, u64);

impl Numeric for f64 {
    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn of_integer(number: i128) -> Option<Self> {
        number.to_string().parse().ok()
    }

    fn of_float(number: f64) -> Option<Self> {
        Some(number)
    }
}

impl<'de, T: Numeric> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written<T>(PhantomData<T>);
        impl<T: Numeric> Visitor<'_> for Written<T> {
            type Value = Number<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                T::expected(f)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                let found = T::of_integer(number.into());
                found.map(Number).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let found = T::of_integer(number.into());
                found.map(Number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                let found = T::of_float(number);
                found.map(Number).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let float = || text.parse().ok().filter(|number: &f64| number.is_finite()).and_then(T::of_float);
                let found = text.parse().ok().and_then(T::of_integer).or_else(float);
                found.map(Number).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Written(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Numeric>(text: &str) -> Option<T> {
        serde_json::from_str::<Number<T>>(text).ok().map(|number| number.0)
    }

    #[test]
    fn a_whole_number_is_read_in_every_writing() {
        for text in ["60", "60.0", "6e1", "\"60\"", "\"60.0\""] {
            assert_eq!(read::<i32>(text), Some(60), "{text}");
            assert_eq!(read::<u64>(text), Some(60), "{text}");
        }
        assert_eq!(read::<i64>("9223372036854775807"), Some(i64::MAX));
        assert_eq!(read::<i64>("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(read::<u64>("\"18446744073709551615\""), Some(u64::MAX));
        assert_eq!(read::<i32>("-0.0"), Some(0));
        assert_eq!(read::<f64>("1.5"), Some(1.5));
        assert_eq!(read::<f64>("\"3\""), Some(3.0));
    }

    #[test]
    fn nothing_is_rounded() {
        for text in
            ["60.5", "2147483648", "-2147483649", "1e300", "9e18", "\"\"", "\"x\"", "\"inf\"", "true", "null", "[]"]
        {
            assert_eq!(read::<i32>(text), None, "{text}");
        }
        assert_eq!(read::<i64>("9223372036854775808"), None);
        assert_eq!(read::<u32>("-1"), None);
    }
}
