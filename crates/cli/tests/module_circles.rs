//! No circle between the modules of a crate: what two modules need of each other lives below both.
//!
//! A module and what it contains are one; beside each other, modules under the same parent form a
//! graph, whose arrows are the paths that their code names. Test code may look wherever it likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

type Module = Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Source folders of all crates.
fn sources() -> Vec<PathBuf> {
    let mut crates: Vec<PathBuf> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    crates.extend(["mpc", "training", "serving", "evals"].map(|name| root().join(name)));
    crates.retain(|path| path.join("src").is_dir());
    crates.sort();
    crates.iter().map(|path| path.join("src")).collect()
}

/// The crate's files by module; binaries of their own stay out.
fn modules(source: &Path, at: &Path, found: &mut BTreeMap<Module, syn::File>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            modules(source, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let mut module: Module = path
                .strip_prefix(source)
                .unwrap()
                .with_extension("")
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if module == ["lib"] || module == ["main"] {
                module.clear();
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            found.insert(module, file);
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let meta = &attribute.meta;
        meta.path().is_ident("test")
            || meta.path().is_ident("cfg")
                && meta.require_list().is_ok_and(|list| {
                    list.tokens
                        .to_string()
                        .split(|c: char| !c.is_alphanumeric())
                        .any(|w| w == "test")
                })
    })
}

/// The paths that a file names, from the crate's root, and what it exports under another's name.
struct Paths<'a> {
    /// The file's module, then the modules written out in it.
    at: Module,
    known: &'a BTreeSet<Module>,
    found: BTreeSet<Module>,
    exports: BTreeMap<String, Module>,
}

impl Paths<'_> {
    fn absolute(&self, segments: &[String]) -> Option<Module> {
        let (first, rest) = segments.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.at.clone(),
            "super" => self.at[..self.at.len().checked_sub(1)?].to_vec(),
            child => {
                let mut path = self.at.clone();
                path.push(child.to_owned());
                self.known.contains(&path).then_some(path)?
            }
        };
        for segment in rest {
            if segment == "super" {
                base.pop();
            } else {
                base.push(segment.clone());
            }
        }
        Some(base)
    }

    fn note(&mut self, segments: &[String]) {
        self.found.extend(self.absolute(segments));
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>, exported: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.use_tree(&path.tree, before, exported);
                before.pop();
            }
            syn::UseTree::Group(group) => {
                group
                    .items
                    .iter()
                    .for_each(|tree| self.use_tree(tree, before, exported));
            }
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Name(syn::UseName { ident }) => self.used(before, ident, ident, exported),
            syn::UseTree::Rename(syn::UseRename { ident, rename, .. }) => {
                self.used(before, ident, rename, exported);
            }
        }
    }

    fn used(&mut self, before: &[String], name: &syn::Ident, here: &syn::Ident, exported: bool) {
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        let Some(absolute) = self.absolute(&path) else {
            return;
        };
        if exported {
            self.exports.insert(here.to_string(), absolute.clone());
        }
        self.found.insert(absolute);
    }

    /// Paths from the root in what a macro is given.
    fn tokens(&mut self, tokens: &str) {
        let words: Vec<&str> = tokens.split_whitespace().collect();
        for start in (0..words.len()).filter(|i| ["crate", "super"].contains(&words[*i])) {
            let mut path = vec![words[start].to_owned()];
            for pair in words[start + 1..]
                .chunks_exact(2)
                .take_while(|pair| pair[0] == "::")
            {
                path.push(pair[1].to_owned());
            }
            self.note(&path);
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(i) => &i.attrs,
            syn::Item::Fn(i) => &i.attrs,
            syn::Item::Impl(i) => &i.attrs,
            syn::Item::Use(i) => &i.attrs,
            syn::Item::Struct(i) => &i.attrs,
            syn::Item::Enum(i) => &i.attrs,
            syn::Item::Const(i) => &i.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.at.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.at.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        self.use_tree(&item.tree, &mut Vec::new(), exported);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.note(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(&item.tokens.to_string());
        visit::visit_macro(self, item);
    }
}

/// Arrows between siblings, by parent: from, to, and a path that draws it.
type Graph = BTreeMap<Module, BTreeMap<(String, String), String>>;

/// Files that are compiled for tests only.
fn test_modules(files: &BTreeMap<Module, syn::File>) -> Vec<Module> {
    let mut found = Vec::new();
    for (module, file) in files {
        for item in &file.items {
            if let syn::Item::Mod(item) = item
                && is_test(&item.attrs)
            {
                found.push(
                    module
                        .iter()
                        .cloned()
                        .chain([item.ident.to_string()])
                        .collect(),
                );
            }
        }
    }
    found
}

fn graph(files: &BTreeMap<Module, syn::File>) -> Graph {
    let tests = test_modules(files);
    let known: BTreeSet<Module> = files.keys().cloned().collect();
    let mut named = BTreeMap::new();
    let mut exports = BTreeMap::new();
    for (module, file) in files {
        if tests.iter().any(|test| module.starts_with(test)) {
            continue;
        }
        let mut paths = Paths {
            at: module.clone(),
            known: &known,
            found: BTreeSet::new(),
            exports: BTreeMap::new(),
        };
        paths.visit_file(file);
        named.insert(module.clone(), paths.found);
        for (name, target) in paths.exports {
            let mut at = module.clone();
            at.push(name);
            exports.insert(at, target);
        }
    }
    let home = |path: &Module| {
        let mut path = path.clone();
        // Through re-exports, a few deep, to the module that has the item.
        for _ in 0..8 {
            let exported = (1..=path.len())
                .rev()
                .find(|n| exports.contains_key(&path[..*n]));
            let Some(n) = exported else { break };
            let target: &Module = &exports[&path[..n]];
            path = target.iter().chain(&path[n..]).cloned().collect();
        }
        (0..=path.len())
            .rev()
            .map(|n| path[..n].to_vec())
            .find(|p| known.contains(p))
            .unwrap()
    };
    let mut graph = Graph::new();
    for (module, paths) in &named {
        for path in paths {
            let target = home(path);
            let same = module
                .iter()
                .zip(&target)
                .take_while(|(a, b)| a == b)
                .count();
            if same < module.len() && same < target.len() {
                let arrow = (module[same].clone(), target[same].clone());
                let example = format!("{} names {}", module.join("::"), path.join("::"));
                graph
                    .entry(module[..same].to_vec())
                    .or_default()
                    .entry(arrow)
                    .or_insert(example);
            }
        }
    }
    graph
}

/// Arrows that lie on a circle.
fn circles(arrows: &BTreeMap<(String, String), String>) -> Vec<&String> {
    let reaches = |from: &String, to: &String| {
        let mut seen = BTreeSet::new();
        let mut queue = vec![from];
        while let Some(at) = queue.pop() {
            if at == to {
                return true;
            }
            if seen.insert(at) {
                queue.extend(arrows.keys().filter(|(a, _)| a == at).map(|(_, b)| b));
            }
        }
        false
    };
    arrows
        .iter()
        .filter(|((from, to), _)| reaches(to, from))
        .map(|(_, example)| example)
        .collect()
}

#[test]
fn modules_of_a_crate_form_no_circle() {
    let mut wrong = Vec::new();
    for source in sources() {
        let mut files = BTreeMap::new();
        modules(&source, &source, &mut files);
        for (parent, arrows) in &graph(&files) {
            let place = source.strip_prefix(root()).unwrap().display();
            for example in circles(arrows) {
                wrong.push(format!("{place}, in `{}`: {example}", parent.join("::")));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "modules in a circle:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_circle_is_found_through_a_re_export() {
    let file = |text| syn::parse_file(text).unwrap();
    let files = BTreeMap::from([
        (vec![], file("mod a; mod b; pub use b::Thing;")),
        (
            vec!["a".to_owned()],
            file("use crate::Thing; pub struct Other;"),
        ),
        (
            vec!["b".to_owned()],
            file("pub struct Thing(super::a::Other);"),
        ),
    ]);
    assert_eq!(circles(&graph(&files)[&vec![]]).len(), 2);
}
