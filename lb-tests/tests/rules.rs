//! What the documentation says of tests and reasons is so.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use lb_common::verdict::Reason;
use lb_tests::matrix::rules::Rule;

/// Pages with a table of tests, and as many rows as there were; fewer means that the page is read wrongly.
const PAGES: [(&str, usize); 2] = [("docs/rules.md", 50), ("docs/conformance.md", 25)];

#[test]
fn each_rule_names_tests_that_exist() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    PAGES
        .iter()
        .try_for_each(|(page, rows)| names_tests(workspace, page, *rows))
}

fn names_tests(workspace: &Path, page: &str, least: usize) -> Result<()> {
    let page = fs::read_to_string(workspace.join(page))?;
    let heading = |line: &str| line.starts_with("| rule ") || line.starts_with("| upstream ");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !heading(line));
    let mut rules = 0;
    for row in rows {
        rules += 1;
        let tests: Vec<&str> = row.split('`').filter(|text| text.contains("::")).collect();
        ensure!(!tests.is_empty(), "no test is named: {row}");
        for test in tests {
            let found = exists(workspace, test).with_context(|| test.to_owned())?;
            ensure!(found, "there is no {test}: {row}");
        }
    }
    ensure!(rules >= least, "only {rules} rules");
    Ok(())
}

fn exists(workspace: &Path, test: &str) -> Result<bool> {
    let (place, name) = test.split_once("::").context("no place")?;
    if place == "Rule" {
        return Ok(Rule::ALL.iter().any(|rule| format!("{rule:?}") == name));
    }
    let places = match place {
        "desired" => vec![workspace.join("lb-userspace/src/desired")],
        "cli" => vec![workspace.join("lb-userspace/tests/cli.rs")],
        "socket_tests" => vec![workspace.join("lb-common/src/datapath/socket_tests.rs")],
        "flow_tests" => vec![workspace.join("lb-common/src/flow_tests.rs")],
        _ => vec![workspace.join("lb-tests/tests").join(format!("{place}.rs"))],
    };
    let function = format!("fn {name}(");
    for place in places {
        if contains(&place, &function)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a file, or one of those in a folder, contains a text.
fn contains(path: &Path, text: &str) -> Result<bool> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            if contains(&entry?.path(), text)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let content = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(content.contains(text))
}

/// The page on the architecture draws the path of a packet with every reason for which it can end.
#[test]
fn the_architecture_names_every_reason() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let page = fs::read_to_string(workspace.join("docs/ARCHITECTURE.md"))?;
    for reason in Reason::ALL {
        ensure!(page.contains(reason.name()), "{} is missing", reason.name());
    }
    Ok(())
}
