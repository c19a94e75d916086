//! Makes the JSON that pbjson generates that of the documented API: 64-bit integers are numbers, and what proto3 JSON lets a caller write
//! is read, null for what is absent above all.

/// What is written by pbjson, and what stands in its place: a null is an absent field.
const READ: [(&str, &str); 7] = [
    (
        "Some(map_.next_value::<Vec<::pbjson::private::NumberDeserialize<_>>>()?",
        "map_.next_value::<::std::option::Option<Vec<crate::number::Number<_>>>>()?.map(|all| all",
    ),
    ("= Some(map_.next_value()?);", "= map_.next_value::<::std::option::Option<_>>()?;"),
    (
        "Some(map_.next_value::<::pbjson::private::NumberDeserialize<_>>()?.0)",
        "map_.next_value::<::std::option::Option<crate::number::Number<_>>>()?.map(|x| x.0)",
    ),
    ("::pbjson::private::NumberDeserialize<_>", "crate::number::Number<_>"),
    (
        "Some(map_.next_value::<::pbjson::private::BytesDeserialize<_>>()?.0)",
        "map_.next_value::<::std::option::Option<::pbjson::private::BytesDeserialize<_>>>()?.map(|x| x.0)",
    ),
    (
        "map_.next_value::<std::collections::HashMap<_, _>>()?",
        "map_.next_value::<::std::option::Option<std::collections::HashMap<_, _>>>()?.unwrap_or_default()",
    ),
    (
        "Some(map_.next_value::<Vec<ErrorType>>()?.into_iter().map(|x| x as i32).collect())",
        "map_.next_value::<::std::option::Option<Vec<ErrorType>>>()?.map(|x| x.into_iter().map(|x| x as i32).collect())",
    ),
];

/// The generated source as it is compiled.
pub(crate) fn documented(source: &str) -> String {
    let read = READ.iter().fold(integers_as_numbers(source), |text, (from, to)| text.replace(from, to));
    enums_or_null(&read)
}

/// pbjson writes `ToString::to_string(&x).as_str()` for a 64-bit integer; the documented API has numbers.
fn integers_as_numbers(source: &str) -> String {
    replaced(source, "ToString::to_string(", ").as_str()", |argument| argument.to_owned())
}

/// An enum's value is read as `Some(map_.next_value::<JobType>()? as i32)`.
fn enums_or_null(source: &str) -> String {
    replaced(source, "Some(map_.next_value::<", ">()? as i32)", |kind| {
        format!("map_.next_value::<::std::option::Option<{kind}>>()?.map(|x| x as i32)")
    })
}

/// Replaces every text from `begin` to the `end` after it, by what stands between.
fn replaced(source: &str, begin: &str, end: &str, by: impl Fn(&str) -> String) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once(begin) {
        let (between, tail) = after.split_once(end).unwrap_or((after, ""));
        text.push_str(before);
        text.push_str(&by(between));
        rest = tail;
    }
    text.push_str(rest);
    text
}
