//! SECURITY.md says which test holds each control to its word: that there is one, and that it is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all functions below a directory of sources.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let declared = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            names.extend(declared.map(str::to_owned));
        }
    }
}

#[test]
fn every_threat_has_a_control_and_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut names = BTreeSet::new();
    for part in ["agent", "proto", "sdk/rust", "server"] {
        functions(&root.join(part), &mut names);
    }
    let rows = text.lines().skip_while(|line| *line != "## Threats and controls").filter(|line| line.starts_with('|'));
    let rows: Vec<&str> = rows.filter(|line| !line.starts_with("|---") && !line.starts_with("| asset |")).collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
        for test in cells[3].split(',') {
            let name = test.trim().trim_matches('`');
            assert!(names.contains(name), "there is no test {name}: {row}");
        }
    }
}
