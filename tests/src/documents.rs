//! What the documents name exists.

use super::e2e::harness::root;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What stands in backquotes, in order.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn architecture_names_files_and_functions_that_exist() {
    let mut files = Vec::new();
    for folder in ["common", "client", "daemon", "tests"] {
        sources(&root().join(folder).join("src"), &mut files);
    }
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let names = quoted(&text);
    let mut checked = 0;
    for (at, name) in names.iter().enumerate().filter(|(_, name)| name.ends_with(".rs")) {
        let file = files.iter().find(|file| file.ends_with(name));
        let file = file.unwrap_or_else(|| panic!("ARCHITECTURE.md names `{name}`"));
        // "(`file.rs`, `function`)" is how it names a function.
        let Some(function) = names.get(at + 1) else { continue };
        let flat = text.replace('\n', " ");
        if !flat.contains(&format!("(`{name}`, `{function}`)")) {
            continue;
        }
        let code = std::fs::read_to_string(file).unwrap();
        let defines = ["fn", "struct"].map(|kind| format!("{kind} {function}"));
        assert!(defines.iter().any(|one| code.contains(one)), "`{function}` is not in `{name}`");
        checked += 1;
    }
    assert!(checked >= 20, "only {checked} functions were looked for");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = vec![];
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        documents.push(root().join(name));
    }
    for folder in ["docs", "docs/adr", "docs/operations"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap().flatten();
        documents.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let target = document.parent().unwrap().join(link);
            assert!(target.exists(), "{} links to {link}", document.display());
        }
    }
}
