use std::fmt;
use std::str::FromStr;

use http::{HeaderValue, Uri};

/// The origins of pages that may call with what their users know, such as `https://console.example.com`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

/// Why a text is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no origin{hint}; write each as a browser sends it: https://console.example.com, with a port where it has one"
)]
pub struct NotAnOrigin {
    text: String,
    hint: &'static str,
}

impl Origins {
    /// Whether no page may.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each as it stands in the header `Origin`.
    pub fn values(&self) -> impl Iterator<Item = &HeaderValue> {
        self.0.iter()
    }
}

impl FromStr for Origins {
    type Err = NotAnOrigin;

    /// Reads what is separated by commas; an empty text is none.
    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(origin).collect::<Result<_, _>>().map(Self)
    }
}

/// One origin (RFC 6454, 6.2). `*` is none: every page on the internet could then use what a browser can reach and its user cannot.
fn origin(text: &str) -> Result<HeaderValue, NotAnOrigin> {
    let wrong = |hint| NotAnOrigin { text: text.to_owned(), hint };
    if text == "*" || text == "null" {
        return Err(wrong(", and all pages are never allowed"));
    }
    let uri: Uri = text.parse().map_err(|_| wrong(""))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong(""));
    };
    let written = format!("{scheme}://{authority}");
    if text != written || text != text.to_lowercase() || authority.as_str().contains('@') {
        return Err(wrong(": a path, capitals or credentials do not belong there"));
    }
    HeaderValue::from_str(&written).map_err(|_| wrong(""))
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().filter_map(|value| value.to_str().ok()).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read() {
        let origins: Origins = "https://a.example, http://localhost:5173,".parse().unwrap();
        assert_eq!(origins.to_string(), "https://a.example,http://localhost:5173");
        for bad in [
            "*",
            "null",
            "a.example",
            "https://a.example/",
            "https://A.example",
            "ftp://a",
            "https://u@a.example",
            "https://*.a",
        ] {
            let read = bad.parse::<Origins>();
            // A star within a name is read as that name, which no browser has.
            assert!(read.is_err() || bad.contains("*."), "{bad}");
        }
    }
}
