//! Parses sources into literals and calls, without comments, help texts and tests.

use neva_tests::root;
use proc_macro2::{TokenStream, TokenTree};
use std::path::{Path, PathBuf};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Expr, ExprMethodCall, ItemMod, LitStr, Macro, Member, Token};

/// An element of a source that a rule may forbid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A string literal.
    Literal(String),
    /// A method call, with the last field of its receiver: `("contains", Some("name"))` for `spec.name.contains(..)`.
    Call(String, Option<String>),
}

/// Returns the Rust files below a folder of the repository.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    fn visit(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && !entry.ends_with("target") {
                visit(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    let mut found = Vec::new();
    visit(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "no source file under {folder}");
    found.sort();
    found
}

/// Parses a source file; returns `None` for a single expression, which another file includes.
pub(crate) fn parse(path: &Path) -> Option<syn::File> {
    let text = std::fs::read_to_string(path).unwrap();
    match syn::parse_file(&text) {
        Ok(file) => Some(file),
        Err(_) if syn::parse_str::<Expr>(&text).is_ok() => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Returns all elements of a file, with their lines.
pub(crate) fn findings(path: &Path) -> Vec<(usize, Found)> {
    let Some(file) = parse(path) else { return Vec::new() };
    let mut reader = Reader::default();
    reader.visit_file(&file);
    reader.found
}

#[derive(Default)]
struct Reader {
    found: Vec<(usize, Found)>,
}

impl Reader {
    fn literal(&mut self, literal: &LitStr) {
        self.found.push((literal.span().start().line, Found::Literal(literal.value())));
    }

    /// Reads arguments of a macro that are not a list of expressions.
    fn tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    if let Ok(literal) = syn::parse2::<LitStr>(TokenTree::from(literal).into()) {
                        self.literal(&literal);
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

/// Returns the last field of `a.b.name`, `&a.name` or `a.name.as_str()`.
fn field(receiver: &Expr) -> Option<String> {
    match receiver {
        Expr::Field(field) => match &field.member {
            Member::Named(name) => Some(name.to_string()),
            Member::Unnamed(_) => None,
        },
        Expr::Reference(reference) => field(&reference.expr),
        Expr::Paren(inner) => field(&inner.expr),
        Expr::MethodCall(call) if call.method == "as_str" || call.method == "clone" => field(&call.receiver),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let found = Found::Call(call.method.to_string(), field(&call.receiver));
        self.found.push((call.method.span().start().line, found));
        if call.method == "help" {
            // Help texts may contain any name.
            self.visit_expr(&call.receiver);
        } else {
            visit::visit_expr_method_call(self, call);
        }
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        let arguments = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(invocation.tokens.clone());
        match arguments {
            Ok(arguments) => {
                let mut inner = Self::default();
                arguments.iter().for_each(|argument| inner.visit_expr(argument));
                self.found.append(&mut inner.found);
            }
            Err(_) => self.tokens(invocation.tokens.clone()),
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast LitStr) {
        self.literal(literal);
    }
}
