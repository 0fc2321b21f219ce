//! Dependencies against the layer table of the root manifest.
//!
//! `[workspace.metadata.alluvium]` holds `layers` (crate to layer: it may depend on strictly lower layers only,
//! whatever the kind of the dependency), `fences` (outside crate to the crates that may name it) and `dev-only`
//! (crates that may be named in dev-dependencies only).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::tool::{Outcome, metadata};

struct Table {
    layers: BTreeMap<String, u64>,
    fences: BTreeMap<String, Vec<String>>,
    dev_only: Vec<String>,
}

pub(crate) fn run() -> Outcome {
    let metadata = metadata(&["--no-deps"])?;
    let problems = check(&metadata)?;
    for problem in &problems {
        eprintln!("layers: {problem}");
    }
    if problems.is_empty() {
        let crates = metadata["packages"].as_array().map_or(0, Vec::len);
        println!("layers: {crates} crates, every dependency points down");
        Ok(())
    } else {
        Err(format!(
            "{} dependencies break the layer table in Cargo.toml",
            problems.len()
        ))
    }
}

fn texts(node: &Value) -> Option<Vec<String>> {
    node.as_array()?
        .iter()
        .map(|v| v.as_str().map(String::from))
        .collect()
}

impl Table {
    fn read(metadata: &Value) -> Option<Self> {
        let table = &metadata["metadata"]["alluvium"];
        let layers = table["layers"]
            .as_object()?
            .iter()
            .map(|(name, layer)| Some((name.clone(), layer.as_u64()?)))
            .collect::<Option<_>>()?;
        let fences = table["fences"]
            .as_object()?
            .iter()
            .map(|(name, users)| Some((name.clone(), texts(users)?)))
            .collect::<Option<_>>()?;
        Some(Self {
            layers,
            fences,
            dev_only: texts(&table["dev-only"])?,
        })
    }
}

/// Every edge that the table refuses, as a sentence.
fn check(metadata: &Value) -> Result<Vec<String>, String> {
    let table = Table::read(metadata)
        .ok_or("workspace.metadata.alluvium must hold layers, fences and dev-only")?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let mut problems = Vec::new();
    let names: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    for name in table.layers.keys() {
        if !names.contains(&name.as_str()) {
            problems.push(format!("{name} has a layer and no crate"));
        }
    }
    for (outside, users) in &table.fences {
        for user in users.iter().filter(|u| !names.contains(&u.as_str())) {
            problems.push(format!(
                "the fence of {outside} names {user}, which is no crate"
            ));
        }
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(layer) = table.layers.get(name) else {
            problems.push(format!("{name} has no layer"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            let edge = format!("{name} (layer {layer}) -> {on}, {kind} dependency");
            match table.layers.get(on) {
                Some(lower) if lower >= layer => {
                    problems.push(format!("{edge}: layer {lower} is not below it"));
                }
                None if dependency["path"].is_string() || on.starts_with("alluvium-") => {
                    problems.push(format!("{edge}: {on} has no layer"));
                }
                Some(_) | None => {}
            }
            if let Some(users) = table.fences.get(on)
                && !users.iter().any(|u| u == name)
            {
                problems.push(format!("{edge}: fenced, only {} may", users.join(", ")));
            }
            if kind != "dev" && table.dev_only.iter().any(|d| d == on) {
                problems.push(format!("{edge}: only dev-dependencies may name {on}"));
            }
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The problems of a workspace of three layers in which `block` has this dependency.
    fn with(dependency: Value) -> Vec<String> {
        check(&json!({
            "metadata": {"alluvium": {
                "layers": {"alluvium-types": 0, "alluvium-codec": 1, "alluvium-protocol": 1, "alluvium-sim": 1,
                           "alluvium-block": 2, "alluvium-store": 3},
                "fences": {"io-uring": ["alluvium-store"]},
                "dev-only": ["alluvium-sim", "proptest"],
            }},
            "packages": [
                {"name": "alluvium-types", "dependencies": []},
                {"name": "alluvium-codec", "dependencies": [{"name": "alluvium-types", "kind": null}]},
                {"name": "alluvium-protocol", "dependencies": []},
                {"name": "alluvium-sim", "dependencies": []},
                {"name": "alluvium-block", "dependencies": [dependency]},
                {"name": "alluvium-store", "dependencies": [{"name": "io-uring", "kind": null}]},
            ],
        }))
        .unwrap()
    }

    #[track_caller]
    fn refused(dependency: Value, why: &str) {
        let problems = with(dependency);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(why), "{problems:?}");
    }

    #[test]
    fn lower_layers_and_outside_crates_pass() {
        for dependency in [
            json!({"name": "alluvium-types", "kind": null}),
            json!({"name": "alluvium-codec", "kind": "build"}),
            json!({"name": "alluvium-sim", "kind": "dev"}),
            json!({"name": "proptest", "kind": "dev"}),
            json!({"name": "crc32c", "kind": null}),
        ] {
            assert_eq!(with(dependency), [""; 0]);
        }
    }

    #[test]
    fn planted_edges_are_refused() {
        for kind in [json!(null), json!("dev"), json!("build")] {
            refused(
                json!({"name": "alluvium-store", "kind": kind}),
                "layer 3 is not below it",
            );
            refused(
                json!({"name": "alluvium-block", "kind": kind}),
                "layer 2 is not below it",
            );
            refused(json!({"name": "io-uring", "kind": kind}), "fenced");
            refused(
                json!({"name": "alluvium-common", "kind": kind}),
                "has no layer",
            );
            refused(
                json!({"name": "helpers", "kind": kind, "path": "crates/helpers"}),
                "has no layer",
            );
        }
        refused(
            json!({"name": "alluvium-sim", "kind": null}),
            "only dev-dependencies",
        );
        refused(
            json!({"name": "proptest", "kind": "build"}),
            "only dev-dependencies",
        );
    }

    #[test]
    fn siblings_are_refused() {
        let problems = check(&json!({
            "metadata": {"alluvium": {"layers": {"a": 1, "b": 1}, "fences": {}, "dev-only": []}},
            "packages": [
                {"name": "a", "dependencies": [{"name": "b", "kind": "dev"}]},
                {"name": "b", "dependencies": []},
            ],
        }))
        .unwrap();
        assert_eq!(
            problems,
            ["a (layer 1) -> b, dev dependency: layer 1 is not below it"]
        );
    }

    #[test]
    fn crates_and_table_must_agree() {
        let problems = check(&json!({
            "metadata": {"alluvium": {"layers": {"gone": 1}, "fences": {"x": ["lost"]}, "dev-only": []}},
            "packages": [{"name": "new", "dependencies": []}],
        }))
        .unwrap();
        assert_eq!(
            problems,
            [
                "gone has a layer and no crate",
                "the fence of x names lost, which is no crate",
                "new has no layer"
            ]
        );
        assert!(check(&json!({"metadata": null, "packages": []})).is_err());
    }
}
