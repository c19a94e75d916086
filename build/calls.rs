//! Which rpc a REST request is, by the very routes that serve it: who asks before a call is served and what serves it cannot disagree.

use std::fmt::Write as _;

/// The source of a function over the routes of the generated transcoder, whose variants are `RPC_N` for the `N`-th service, with `_bM` behind
/// for a further binding. A route that is left out, or named otherwise, does not compile.
///
/// # Errors
/// Where the transcoder's source is not what this knows.
pub(crate) fn source(transcoder: &str, services: &[String]) -> Result<String, String> {
    let (_, rest) = transcoder.split_once("enum Route").ok_or("the generated transcoder has no routes")?;
    let (_, rest) = rest.split_once('{').ok_or("the generated routes are empty")?;
    // Up to the end of the enum: the braces of variants are within.
    let mut depth = 1_u32;
    let mut variants = vec![String::new()];
    for c in rest.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => variants.push(String::new()),
            c if depth == 1 => variants.last_mut().ok_or("no variant")?.push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    let mut arms = String::new();
    for variant in variants.iter().map(|variant| variant.trim()).filter(|variant| !variant.is_empty()) {
        let unknown = || format!("the generated route {variant} has no service");
        let (name, binding) = variant.rsplit_once('_').ok_or_else(unknown)?;
        let (rpc, index) =
            if binding.starts_with('b') { name.rsplit_once('_').ok_or_else(unknown)? } else { (name, binding) };
        let service = index.parse().ok().and_then(|index: usize| services.get(index)).ok_or_else(unknown)?;
        writeln!(arms, "        Route::{variant} {{ .. }} => \"/orrery.v1.{service}/{rpc}\",")
            .map_err(|error| error.to_string())?;
    }
    Ok(format!(
        "/// The gRPC path of the rpc that a REST request is; `None` where it is none.\n\
         pub fn called(method: &str, path: &str) -> Option<&'static str> {{\n    \
             Some(match Route::resolve(method, path)? {{\n{arms}    }})\n}}\n"
    ))
}
