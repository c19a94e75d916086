//! The fields of a definition that are plain texts.

use std::collections::{BTreeMap, HashMap};

use super::problems::Problems;

const MAX_NAME: usize = 200;
const MAX_DESCRIPTION: usize = 10_000;
const MAX_TAGS: usize = 50;
const MAX_LABELS: usize = 50;
/// The most characters of a tag, a queue's name, or a label's name or value.
const MAX_WORD: usize = 100;

pub(super) fn name(p: &mut Problems, name: &str) -> String {
    const CODE: &str = "INVALID_NAME";
    let length = name.chars().count();
    if name.trim().is_empty() {
        p.add(CODE, "name", "is empty; give 1 to 200 characters");
    } else if length > MAX_NAME {
        p.add(CODE, "name", format!("has {length} characters; at most {MAX_NAME} are allowed"));
    } else if name.chars().any(char::is_control) {
        p.add(CODE, "name", "has control characters; remove them");
    }
    name.to_owned()
}

pub(super) fn description(p: &mut Problems, text: &str) -> String {
    const CODE: &str = "INVALID_DESCRIPTION";
    let length = text.chars().count();
    if length > MAX_DESCRIPTION {
        p.add(CODE, "description", format!("has {length} characters; at most {MAX_DESCRIPTION} are allowed"));
    } else if text.contains('\0') {
        p.add(CODE, "description", "has a NUL character; remove it");
    }
    text.to_owned()
}

/// Tags in their order, each once.
pub(super) fn tags(p: &mut Problems, tags: &[String]) -> Vec<String> {
    const CODE: &str = "INVALID_TAGS";
    let mut kept: Vec<String> = Vec::new();
    for (index, tag) in tags.iter().enumerate() {
        if let Some(problem) = word_problem(tag) {
            p.add(CODE, &format!("tags[{index}]"), problem);
        } else if !kept.contains(tag) {
            kept.push(tag.clone());
        }
    }
    if kept.len() > MAX_TAGS {
        p.add(CODE, "tags", format!("there are {}; at most {MAX_TAGS} are allowed", kept.len()));
    }
    kept
}

pub(super) fn queue(p: &mut Problems, queue: &str, default: &str) -> String {
    if queue.is_empty() {
        return default.to_owned();
    }
    if let Some(problem) = queue_problem(queue) {
        p.add("INVALID_QUEUE", "queue", problem);
    }
    queue.to_owned()
}

/// What is wrong with a queue's name, if anything.
pub(crate) fn queue_problem(queue: &str) -> Option<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/');
    let is_good = (1..=MAX_WORD).contains(&queue.len()) && queue.chars().all(known);
    (!is_good).then(|| format!("give 1 to {MAX_WORD} of letters, digits and the characters . _ - : /"))
}

pub(super) fn selector(p: &mut Problems, labels: &HashMap<String, String>) -> BTreeMap<String, String> {
    const CODE: &str = "INVALID_SELECTOR";
    if labels.len() > MAX_LABELS {
        p.add(CODE, "selector", format!("there are {} labels; at most {MAX_LABELS} are allowed", labels.len()));
    }
    let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    for (name, value) in &labels {
        let field = format!("selector.{}", name.escape_default());
        if let Some(problem) = word_problem(name) {
            p.add(CODE, &field, format!("the label's name {problem}"));
        }
        // An empty value is a label like any other.
        if let Some(problem) = Some(value).filter(|v| !v.is_empty()).and_then(|v| word_problem(v)) {
            p.add(CODE, &field, format!("the label's value {problem}"));
        }
    }
    labels
}

fn word_problem(word: &str) -> Option<String> {
    let length = word.chars().count();
    if word.trim().is_empty() {
        Some("is empty".to_owned())
    } else if length > MAX_WORD {
        Some(format!("has {length} characters; at most {MAX_WORD} are allowed"))
    } else if word.chars().any(char::is_control) {
        Some("has control characters; remove them".to_owned())
    } else {
        None
    }
}
