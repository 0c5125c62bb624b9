//! One source file with all its mutants in it, of which a number chosen at run time picks one.
//!
//! So one build serves all mutants. A mutated function begins with `if is(N) { return … }`; an expression `a + b`
//! becomes `(if is(N) { a - b } else { a + b })`. Comments mark where each begins and ends, so that an error of the
//! compiler tells which mutant means nothing.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, Result};
use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::list::{Genre, Mutant};

/// Added to the crate: which mutant runs.
pub(super) const CHOICE: &str = r#"
/// Which mutant runs.
#[doc(hidden)]
pub mod mutant {
    extern crate std;
    static CHOSEN: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
        std::env::var("LAZULI_MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
    });
    /// Whether it is this one.
    #[inline]
    pub fn is(number: u32) -> bool {
        *CHOSEN == number
    }
}
"#;

/// A source file, and what in it can be switched.
pub(super) struct Source {
    text: String,
    places: Places,
}

/// Where things stand, by where they begin.
#[derive(Default)]
struct Places {
    /// Expressions, by the start of their operator.
    operators: HashMap<usize, Range<usize>>,
    /// Match arms: the end of the pattern, and the guard.
    arms: HashMap<usize, (usize, Option<Range<usize>>)>,
    /// Matches: the line they begin in, and all of them.
    matches: Vec<(usize, Range<usize>)>,
    /// Function names and the `const` before them.
    const_fns: Vec<(String, Range<usize>)>,
    /// Where the compiler computes: nothing can be chosen at run time.
    constants: Vec<Range<usize>>,
}

/// A text to put in, or in place of something.
struct Edit {
    at: Range<usize>,
    /// The order of those at one place.
    rank: (u8, usize, usize),
    text: String,
}

impl Source {
    pub(super) fn new(text: String) -> Result<Self> {
        let file = syn::parse_file(&text).context("it does not parse")?;
        let mut places = Places::default();
        places.visit_file(&file);
        Ok(Self { text, places })
    }

    /// The text with these mutants in it, those that can be switched; `fixed` are functions that have to stay `const`.
    pub(super) fn with(&self, mutants: &[(u32, &Mutant)], fixed: &[String]) -> String {
        let mut edits: Vec<Edit> = Vec::new();
        for (order, (number, mutant)) in mutants.iter().enumerate() {
            let Some((range, before, after)) = self.edits(*number, mutant) else { continue };
            let (open, close) = (format!("/*~{number}*/{before}"), format!("{after}/*{number}~*/"));
            if range.is_empty() {
                // Before whatever else begins here.
                edits.push(Edit { at: range.clone(), rank: (1, 0, order), text: open + &close });
                continue;
            }
            // What reaches farthest begins first, what began last ends first.
            edits.push(Edit { at: range.start..range.start, rank: (1, usize::MAX - range.end, order), text: open });
            let rank = (0, usize::MAX - range.start, usize::MAX - order);
            edits.push(Edit { at: range.end..range.end, rank, text: close });
        }
        for (name, range) in &self.places.const_fns {
            if !fixed.contains(name) {
                edits.push(Edit { at: range.clone(), rank: (2, 0, 0), text: String::new() });
            }
        }
        edits.sort_by_key(|edit| (edit.at.start, edit.rank));
        let (mut out, mut done) = (String::new(), 0);
        for edit in edits {
            out += &self.text[done..edit.at.start];
            out += &edit.text;
            done = edit.at.end;
        }
        out + &self.text[done..]
    }

    /// Whether the mutant can be chosen at run time, unless the compiler says otherwise.
    pub(super) fn can_switch(&self, mutant: &Mutant, fixed: &[String]) -> bool {
        let at = mutant.range(&self.text).start;
        let in_constant = self.places.constants.iter().any(|constant| constant.contains(&at));
        !in_constant && !fixed.contains(&mutant.function_name()) && self.edits(0, mutant).is_some()
    }

    /// Whether the mutant takes an arm out of a match that begins in this line. Switching keeps the lines as they are.
    pub(super) fn is_in_match(&self, line: usize, mutant: &Mutant) -> bool {
        let at = mutant.range(&self.text).start;
        let here = |(begins, whole): &(usize, Range<usize>)| *begins == line && whole.contains(&at);
        mutant.genre == Genre::MatchArm && self.places.matches.iter().any(here)
    }

    /// Where the mutant begins and ends, and what stands there then.
    fn edits(&self, number: u32, mutant: &Mutant) -> Option<(Range<usize>, String, String)> {
        let range = mutant.range(&self.text);
        let is = format!("crate::mutant::is({number})");
        let new = &mutant.replacement;
        Some(match mutant.genre {
            Genre::FnValue => match after_items(new, &is) {
                Some(after) => (range, "({ ".to_owned(), format!(" }}){after}")),
                None => (range.start..range.start, format!("if {is} {{ return {new}; }}"), String::new()),
            },
            Genre::BinaryOperator | Genre::UnaryOperator => {
                let whole = self.places.operators.get(&range.start)?.clone();
                let mut other = self.text[whole.clone()].to_owned();
                other.replace_range(range.start - whole.start..range.end - whole.start, new);
                (whole, format!("(if {is} {{ {other} }} else {{ "), " })".to_owned())
            }
            Genre::MatchArmGuard => (range, format!("(if {is} {{ {new} }} else {{ "), " })".to_owned()),
            Genre::MatchArm => match self.places.arms.get(&range.start)? {
                (_, Some(guard)) => (guard.clone(), format!("!{is} && ("), ")".to_owned()),
                (pattern, None) => (*pattern..*pattern, format!(" if !{is} "), String::new()),
            },
            Genre::StructField => return None,
        })
    }
}

/// What follows the body of a function that returns `impl Iterator`, whose type cannot be another for one mutant: it takes
/// away all items, and adds the one that the mutant returns.
fn after_items(new: &str, is: &str) -> Option<String> {
    let of_some = new.strip_prefix("Some(").and_then(|new| new.strip_suffix(')'));
    let items = of_some.unwrap_or(new).strip_prefix("::std::iter::")?;
    let mut after = format!(".filter(|_| !{is})");
    if let Some(item) = items.strip_prefix("once(").and_then(|item| item.strip_suffix(')')) {
        after += &format!(".chain({is}.then(|| {item}))");
    }
    Some(if of_some.is_some() { format!(".map(|all| all{after})") } else { after })
}

/// The mutant of a switched text in whose part this place lies.
pub(super) fn mutant_at(text: &str, place: usize) -> Option<u32> {
    let (mut open, mut at) = (Vec::new(), 0);
    while let Some(found) = text[at..place.min(text.len())].find("/*") {
        let mark = &text[at + found + 2..];
        let mark = &mark[..mark.find("*/").unwrap_or(0)];
        if let Some(number) = mark.strip_prefix('~').and_then(|number| number.parse::<u32>().ok()) {
            open.push(number);
        } else if mark.strip_suffix('~').is_some_and(|number| number.parse::<u32>().is_ok()) {
            open.pop();
        }
        at += found + 2;
    }
    open.pop()
}

impl Places {
    fn operator(&mut self, operator: Span, whole: Span) {
        self.operators.insert(operator.byte_range().start, whole.byte_range());
    }

    fn signature(&mut self, signature: &syn::Signature) {
        if let Some(token) = &signature.constness {
            let mut range = token.span.byte_range();
            range.end += 1;
            self.const_fns.push((signature.ident.to_string(), range));
        }
    }
}

impl<'ast> Visit<'ast> for Places {
    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        // A chain of `let` is no expression that could stand in braces.
        if !has_let(&expr.left) && !has_let(&expr.right) {
            self.operator(expr.op.span(), expr.span());
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast syn::ExprUnary) {
        self.operator(expr.op.span(), expr.span());
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        self.matches.push((expr.match_token.span.start().line, expr.span().byte_range()));
        visit::visit_expr_match(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let guard = arm.guard.as_ref().map(|(_, guard)| guard.span().byte_range());
        self.arms.insert(arm.span().byte_range().start, (arm.pat.span().byte_range().end, guard));
        visit::visit_arm(self, arm);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.signature(signature);
        visit::visit_signature(self, signature);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constants.push(item.span().byte_range());
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.constants.push(item.span().byte_range());
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constants.push(item.span().byte_range());
    }

    fn visit_type_array(&mut self, array: &'ast syn::TypeArray) {
        self.constants.push(array.len.span().byte_range());
    }

    fn visit_expr_repeat(&mut self, repeat: &'ast syn::ExprRepeat) {
        self.constants.push(repeat.len.span().byte_range());
        self.visit_expr(&repeat.expr);
    }
}

fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::after_items;

    #[test]
    fn an_iterator_keeps_its_type() {
        assert_eq!(after_items("::std::iter::empty()", "is(1)").as_deref(), Some(".filter(|_| !is(1))"));
        let one = after_items("Some(::std::iter::once(f(0)))", "is(1)");
        assert_eq!(one.as_deref(), Some(".map(|all| all.filter(|_| !is(1)).chain(is(1).then(|| f(0))))"));
        assert_eq!(after_items("Some(0)", "is(1)"), None);
    }
}
