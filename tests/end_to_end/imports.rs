//! Imports between the modules of a crate, parsed from its sources.

use crate::code::parse;
use neva_tests::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

/// Path of a module within its crate; empty for the crate itself.
pub(crate) type Module = Vec<String>;

/// The modules of one crate that have a file, and their imports.
pub(crate) struct Imports {
    edges: BTreeMap<Module, BTreeSet<Module>>,
}

/// Names in one module: paths in its own crate, and re-exports.
#[derive(Default)]
struct Names {
    module: Module,
    /// Paths relative to the crate, with true if a re-export contains them.
    paths: Vec<(Module, bool)>,
    /// Targets of re-exports by their last component.
    exports: BTreeMap<String, Module>,
    /// Declared modules.
    children: BTreeSet<String>,
}

impl Imports {
    /// Reads a crate's `src` folder without tests.
    pub(crate) fn read(folder: &str) -> Self {
        let source = root().join(folder).join("src");
        let mut all = BTreeMap::new();
        read(&source, &source, &mut all);
        assert!(!all.is_empty(), "no module under {folder}");
        let mut edges = BTreeMap::<Module, BTreeSet<Module>>::new();
        for (module, names) in &all {
            for (path, exported) in &names.paths {
                let target = resolve(&all, path, 0);
                // A re-export of a module's own children is not an import.
                let is_door = *exported && target.starts_with(module);
                if target != *module && !is_door {
                    edges.entry(module.clone()).or_default().insert(target);
                }
            }
        }
        Self { edges }
    }

    /// Returns the imports of `from` and its submodules from `to` and its submodules.
    pub(crate) fn between(&self, from: &str, to: &str) -> Vec<String> {
        let below = |module: &Module, name: &str| module.starts_with(&name.split("::").map(str::to_owned).collect::<Vec<_>>());
        let edges = self
            .edges
            .iter()
            .flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)));
        edges
            .filter(|(a, b)| below(a, from) && below(b, to))
            .map(|(a, b)| format!("{} imports {}", a.join("::"), b.join("::")))
            .collect()
    }

    /// Returns the cycles of sibling modules, direct or indirect, each as sorted names.
    pub(crate) fn cycles(&self) -> Vec<String> {
        let parents: BTreeSet<Module> = self.modules().filter_map(|module| Some(module.split_last()?.1.to_vec())).collect();
        parents.iter().flat_map(|parent| self.cycles_below(parent)).collect()
    }

    fn modules(&self) -> impl Iterator<Item = &Module> {
        self.edges.iter().flat_map(|(from, to)| std::iter::once(from).chain(to))
    }

    fn cycles_below(&self, parent: &Module) -> Vec<String> {
        let child = |module: &Module| module.strip_prefix(parent.as_slice())?.first().cloned();
        let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
        for (from, targets) in &self.edges {
            for (from, to) in targets.iter().filter_map(|to| Some((child(from)?, child(to)?))) {
                if from != to {
                    graph.entry(from).or_default().insert(to);
                }
            }
        }
        let reached = |from: &String| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(module) = next.pop() {
                next.extend(graph.get(module).into_iter().flatten().filter(|to| seen.insert(to.to_string())));
            }
            seen
        };
        let reach: BTreeMap<_, _> = graph.keys().map(|module| (module, reached(module))).collect();
        let mutual = |a: &String, b: &String| reach[a].contains(b) && reach.get(b).is_some_and(|seen| seen.contains(a));
        let cycles: BTreeSet<_> = graph
            .keys()
            .map(|module| graph.keys().filter(|other| mutual(module, other)).cloned().collect::<Vec<_>>())
            .filter(|circle| circle.len() > 1)
            .collect();
        let at = parent.iter().map(|name| format!("{name}::")).collect::<String>();
        cycles.into_iter().map(|circle| format!("{at}{{{}}}", circle.join(", "))).collect()
    }
}

fn read(source: &Path, folder: &Path, all: &mut BTreeMap<Module, Names>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            read(source, &path, all);
            continue;
        }
        let relative = path.strip_prefix(source).unwrap().with_extension("");
        let mut module: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if path.extension().is_none_or(|extension| extension != "rs") || module[0] == "main" || module[0] == "bin" {
            continue;
        }
        if module
            .last()
            .is_some_and(|name| name == "mod" || (module.len() == 1 && name == "lib"))
        {
            module.pop();
        }
        let Some(file) = parse(&path) else { continue };
        let mut names = Names {
            module: module.clone(),
            ..Names::default()
        };
        names.children = file
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Mod(module) => Some(module.ident.to_string()),
                _ => None,
            })
            .collect();
        names.visit_file(&file);
        all.insert(module, names);
    }
}

/// Returns the module of a path, after resolving re-exports.
fn resolve(all: &BTreeMap<Module, Names>, path: &Module, depth: usize) -> Module {
    let depth_of = (0..=path.len()).rev().find(|length| all.contains_key(&path[..*length]));
    let (module, rest) = path.split_at(depth_of.unwrap_or(0));
    let export = rest.first().and_then(|name| all[module].exports.get(name));
    match export {
        Some(target) if target != path && depth < 8 => resolve(all, &[target.as_slice(), &rest[1..]].concat(), depth + 1),
        _ => module.to_vec(),
    }
}

impl Names {
    /// Returns a path relative to the crate, or `None` for one in another crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&self.module[..], &path[1..]].concat()),
            "super" => Some([&self.module[..self.module.len().checked_sub(supers)?], &path[supers..]].concat()),
            child if self.children.contains(child) => Some([&self.module[..], path].concat()),
            _ => None,
        }
    }
}

fn leaves(tree: &UseTree, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let with = |name: &syn::Ident| [prefix, &[name.to_string()][..]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), found),
        UseTree::Name(name) if name.ident == "self" => found.push((prefix.to_vec(), prefix.last().cloned().unwrap_or_default())),
        UseTree::Name(name) => found.push((with(&name.ident), name.ident.to_string())),
        UseTree::Rename(name) => found.push((with(&name.ident), name.rename.to_string())),
        UseTree::Glob(_) => found.push((prefix.to_vec(), String::new())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, prefix, found)),
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let is_test = |attribute: &syn::Attribute| attribute.path().is_ident("cfg");
        if !item.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let exported = !matches!(item.vis, Visibility::Inherited);
        let mut found = Vec::new();
        leaves(&item.tree, &[], &mut found);
        for (path, name) in found {
            if let Some(path) = self.absolute(&path) {
                if exported {
                    self.exports.insert(name, path.clone());
                }
                self.paths.push((path, exported));
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1
            && matches!(parts[0].as_str(), "crate" | "super")
            && let Some(path) = self.absolute(&parts)
        {
            self.paths.push((path, false));
        }
        visit::visit_path(self, path);
    }
}
