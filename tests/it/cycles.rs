//! No module imports, directly or indirectly, a module that imports it. Modules are files, tests
//! are excluded, and re-exports are resolved to the defining file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// A module's path below its crate, such as `["phoebe", "search"]`; the crate's root is empty.
type Module = Vec<String>;

#[derive(Default)]
struct File {
    /// Absolute paths below the crate that the file uses.
    paths: Vec<Vec<String>>,
    /// The file's re-exports: name to absolute path. A glob has the name `*`.
    exports: Vec<(String, Vec<String>)>,
}

struct Paths<'a> {
    at: &'a Module,
    file: &'a mut File,
    /// Inline modules around the current item, innermost last.
    inline: Vec<String>,
}

impl Paths<'_> {
    /// Resolves a path that begins with `crate`, `self`, `super` or a sibling module to a path
    /// below the crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = self.at.clone();
        base.extend(self.inline.iter().cloned());
        match path.first()?.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop()?;
                let rest = &path[1..];
                let further = rest.iter().take_while(|segment| *segment == "super").count();
                base.truncate(base.len().checked_sub(further)?);
                return Some(base.into_iter().chain(rest[further..].iter().cloned()).collect());
            }
            _ => return Some(base.into_iter().chain(path.iter().cloned()).collect()),
        }
        Some(base.into_iter().chain(path[1..].iter().cloned()).collect())
    }

    fn uses(&mut self, tree: &syn::UseTree, prefix: &[String], public: bool) {
        let with = |name: &syn::Ident| {
            prefix.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>()
        };
        match tree {
            syn::UseTree::Path(path) => self.uses(&path.tree, &with(&path.ident), public),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.uses(item, prefix, public))
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.named(prefix.to_vec(), None, public)
            }
            syn::UseTree::Name(name) => self.named(with(&name.ident), None, public),
            syn::UseTree::Rename(name) => {
                self.named(with(&name.ident), Some(name.rename.to_string()), public)
            }
            syn::UseTree::Glob(_) => self.named(prefix.to_vec(), Some("*".into()), public),
        }
    }

    fn named(&mut self, path: Vec<String>, rename: Option<String>, public: bool) {
        let Some(path) = self.absolute(&path) else { return };
        if public && let Some(name) = rename.or_else(|| path.last().cloned()) {
            self.file.exports.push((name, path.clone()));
        }
        self.file.paths.push(path);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute
            .meta
            .path()
            .is_ident("cfg")
            .then(|| attribute.parse_args::<syn::Ident>().ok())
            .flatten();
        text.is_some_and(|name| name == "test") || attribute.meta.path().is_ident("test")
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test(&module.attrs) {
            return;
        }
        self.inline.push(module.ident.to_string());
        syn::visit::visit_item_mod(self, module);
        self.inline.pop();
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_test(&function.attrs) {
            syn::visit::visit_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test(&item.attrs) {
            return;
        }
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.uses(&item.tree, &[], public);
    }

    /// `pub(in path)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1
            && let Some(path) = self.absolute(&segments)
        {
            self.file.paths.push(path);
        }
        syn::visit::visit_path(self, path);
    }
}

/// The modules of the crate with sources in `folder`.
fn modules(folder: &Path) -> BTreeMap<Module, File> {
    fn read(folder: &Path, at: &Module, found: &mut BTreeMap<Module, File>) {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != "tests" && name != "bin" {
                    read(&path, &at.iter().cloned().chain([name]).collect(), found);
                }
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs")
                || ["tests", "main"].contains(&name.as_str())
            {
                continue;
            }
            if name.ends_with("_tests") {
                continue;
            }
            let own = ["lib", "mod"].contains(&name.as_str());
            let module: Module =
                if own { at.clone() } else { at.iter().cloned().chain([name]).collect() };
            let parsed = syn::parse_file(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let mut file = File::default();
            Paths { at: &module, file: &mut file, inline: Vec::new() }.visit_file(&parsed);
            found.insert(module, file);
        }
    }
    let mut found = BTreeMap::new();
    read(folder, &Vec::new(), &mut found);
    found
}

/// The file in which `path` is defined, following re-exports; `None` if it is not a module of this
/// crate.
fn target(path: &[String], all: &BTreeMap<Module, File>, depth: usize) -> Option<Module> {
    let known = (0..=path.len()).rev().find(|length| all.contains_key(&path[..*length]))?;
    let (module, rest) = path.split_at(known);
    let Some(name) = rest.first() else { return Some(module.to_vec()) };
    if depth < 8 {
        for (export, from) in &all[module].exports {
            if export == name {
                let whole: Vec<String> = from.iter().chain(&rest[1..]).cloned().collect();
                return target(&whole, all, depth + 1);
            }
        }
    }
    Some(module.to_vec())
}

/// Sets of modules that import each other, by Tarjan's algorithm (Tarjan 1972).
fn cycles(all: &BTreeMap<Module, File>) -> Vec<BTreeSet<Module>> {
    struct Search<'a> {
        edges: &'a BTreeMap<Module, BTreeSet<Module>>,
        index: BTreeMap<Module, usize>,
        low: BTreeMap<Module, usize>,
        stack: Vec<Module>,
        found: Vec<BTreeSet<Module>>,
    }
    impl Search<'_> {
        fn visit(&mut self, module: &Module) {
            let number = self.index.len();
            self.index.insert(module.clone(), number);
            self.low.insert(module.clone(), number);
            self.stack.push(module.clone());
            for next in self.edges[module].clone() {
                if !self.index.contains_key(&next) {
                    self.visit(&next);
                    let low = self.low[module].min(self.low[&next]);
                    self.low.insert(module.clone(), low);
                } else if self.stack.contains(&next) {
                    let low = self.low[module].min(self.index[&next]);
                    self.low.insert(module.clone(), low);
                }
            }
            if self.low[module] == number {
                let mut group = BTreeSet::new();
                while let Some(last) = self.stack.pop() {
                    let done = last == *module;
                    group.insert(last);
                    if done {
                        break;
                    }
                }
                if group.len() > 1 {
                    self.found.push(group);
                }
            }
        }
    }
    let edges: BTreeMap<Module, BTreeSet<Module>> = all
        .iter()
        .map(|(module, file)| {
            let to = file.paths.iter().filter_map(|path| target(path, all, 0));
            (module.clone(), to.filter(|to| to != module).collect())
        })
        .collect();
    let mut search = Search {
        edges: &edges,
        index: BTreeMap::new(),
        low: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for module in all.keys() {
        if !search.index.contains_key(module) {
            search.visit(module);
        }
    }
    search.found
}

/// Number of files in import cycles, by crate. The numbers may only decrease: a crate without
/// cycles stays without.
const KNOWN: [(&str, usize); 7] = [
    ("actors/src", 0),
    ("domain/src", 0),
    ("engine/src", 0),
    ("evals/src", 0),
    ("migrations/src", 0),
    ("specialists/src", 0),
    ("src", 0),
];

#[test]
fn modules_that_import_each_other_grow_fewer() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (folder, known) in KNOWN {
        let all = modules(&tree.join(folder));
        assert!(
            all.len() > 2 && all.values().any(|file| !file.paths.is_empty()),
            "{folder} is read"
        );
        let found = cycles(&all);
        let count: usize = found.iter().map(BTreeSet::len).sum();
        if count != known {
            let names: Vec<Vec<String>> = found
                .iter()
                .map(|group| group.iter().map(|module| module.join("::")).collect())
                .collect();
            wrong.push(format!(
                "{folder}: {count} files import each other, {known} are known: {names:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_cycle_through_a_re_export_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::Thing;\n");
    write(
        "a.rs",
        "pub struct Thing;\nfn f() { crate::b::g(); }\n#[cfg(test)]\nmod tests { use crate::c::h; }\n",
    );
    write("b.rs", "use crate::Thing;\npub fn g() {}\n");
    write("c.rs", "pub fn h() { super::b::g() }\n");
    let group =
        |names: &[&str]| names.iter().map(|name| vec![(*name).to_owned()]).collect::<BTreeSet<_>>();
    let found = cycles(&modules(folder.path()));
    assert_eq!(found, [group(&["a", "b"])], "tests are left out, and the root is not in it");
}
