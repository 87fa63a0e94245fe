//! Lists of nodes as Slurm writes them: `a[01-03,07],b2` is `a01 a02 a03 a07 b2`.

use crate::error::Explained;

/// Nodes of one list at most: as many as Slurm itself takes.
pub const NODES_MAX: usize = 65_536;

/// Bytes of one name at most: as many as a host's name may have.
const NAME_MAX: usize = 255;
/// Digits of one number at most, so that it fits.
const DIGITS_MAX: usize = 18;

/// Names of a list of nodes, in its order.
///
/// # Errors
/// Says what is no list, and where; and refuses one of more than [`NODES_MAX`] nodes.
pub fn hostnames(list: &str) -> Result<Vec<String>, Explained> {
    let mut names = Vec::new();
    if list.is_empty() {
        return Ok(names);
    }
    for item in split(list) {
        let parts = parts(item).map_err(|error| error.at(format!("`{item}` of a node list")))?;
        expand(&parts, &mut names).map_err(|error| error.at(format!("`{item}` of a node list")))?;
    }
    Ok(names)
}

/// A piece of a name.
enum Part<'a> {
    /// It stands for itself.
    Text(&'a str),
    /// A number of one of these ranges.
    Ranges(Vec<Range>),
}

/// Numbers from `first` to `last`, with zeros before them up to `width` digits.
struct Range {
    first: u64,
    last: u64,
    width: usize,
}

impl Part<'_> {
    fn count(&self) -> u64 {
        match self {
            Self::Text(_) => 1,
            Self::Ranges(ranges) => {
                ranges.iter().map(|range| range.last - range.first + 1).fold(0, u64::saturating_add)
            }
        }
    }
}

/// The items of a list: it is cut at the commas that stand outside brackets.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    list.split(move |character| {
        match character {
            '[' => is_inside = true,
            ']' => is_inside = false,
            _ => {}
        }
        character == ',' && !is_inside
    })
}

fn parts(item: &str) -> Result<Vec<Part<'_>>, Explained> {
    let mut parts = Vec::new();
    let mut rest = item;
    while let Some((text, after)) = rest.split_once('[') {
        let Some((ranges, after)) = after.split_once(']') else {
            return Err(refused("a bracket is not closed"));
        };
        if !text.is_empty() {
            parts.push(Part::Text(named(text)?));
        }
        parts.push(Part::Ranges(ranges.split(',').map(range).collect::<Result<_, _>>()?));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(named(rest)?));
    }
    if parts.is_empty() {
        return Err(refused("a name is empty"));
    }
    Ok(parts)
}

/// A piece of a name as it may stand in a host's name.
fn named(text: &str) -> Result<&str, Explained> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text.chars().find(|c| !is_allowed(*c)) {
        None => Ok(text),
        Some(character) => Err(refused(format!("{character:?} stands in no node's name"))),
    }
}

fn range(text: &str) -> Result<Range, Explained> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = Range { first: number(first)?, last: number(last)?, width: first.len() };
    if range.first > range.last {
        return Err(refused(format!("the range {text} goes backwards")));
    }
    Ok(range)
}

fn number(text: &str) -> Result<u64, Explained> {
    let is_number = text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse().ok() } else { None };
    number.ok_or_else(|| refused(format!("`{text}` is no number in a bracket")))
}

/// Adds the names that an item stands for; the last bracket's number changes first.
fn expand(parts: &[Part<'_>], names: &mut Vec<String>) -> Result<(), Explained> {
    let count = parts.iter().map(Part::count).fold(1, u64::saturating_mul);
    if count.saturating_add(names.len() as u64) > NODES_MAX as u64 {
        return Err(refused(format!("the list has more than {NODES_MAX} nodes")));
    }
    let mut begun = vec![String::new()];
    for part in parts {
        begun = match part {
            Part::Text(text) => begun.into_iter().map(|name| name + text).collect(),
            Part::Ranges(ranges) => begun.iter().flat_map(|name| numbered(name, ranges)).collect(),
        };
    }
    if let Some(name) = begun.iter().find(|name| name.len() > NAME_MAX) {
        return Err(refused(format!("a name has {} bytes", name.len())));
    }
    names.extend(begun);
    Ok(())
}

fn numbered<'a>(name: &'a str, ranges: &'a [Range]) -> impl Iterator<Item = String> + 'a {
    ranges.iter().flat_map(move |Range { first, last, width }| {
        (*first..=*last).map(move |number| format!("{name}{number:0width$}"))
    })
}

fn refused(what: impl Into<String>) -> Explained {
    Explained::new(what)
        .expected("names with ranges of numbers in brackets, as a[01-03,07],b2")
        .hint("take it as Slurm writes it, in SLURM_JOB_NODELIST or `squeue --format %N`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_is_expanded() {
        for (list, expected) in [
            ("", ""),
            ("n0", "n0"),
            ("n[0-1]", "n0 n1"),
            ("a[01-03,07],b2", "a01 a02 a03 a07 b2"),
            ("a[8-11]", "a8 a9 a10 a11"),
            ("a[08-11]", "a08 a09 a10 a11"),
            ("a[098-101,5]", "a098 a099 a100 a101 a5"),
            ("r[1-2]n[3-4]", "r1n3 r1n4 r2n3 r2n4"),
            ("a[1-2]-ib,c", "a1-ib a2-ib c"),
            ("x.y_z-1,x", "x.y_z-1 x"),
            ("a,a", "a a"),
            ("[1-2]", "1 2"),
        ] {
            assert_eq!(hostnames(list).unwrap().join(" "), expected, "{list}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_place() {
        for (list, said) in [
            ("a[1-2", "not closed"),
            ("a,,b", "empty"),
            ("a,", "empty"),
            ("a[]", "no number"),
            ("a[1-]", "no number"),
            ("a[1-x]", "no number"),
            ("a[1-2-3]", "no number"),
            ("a[[1]]", "no number"),
            ("a[2-1]", "backwards"),
            ("a]", "no node's name"),
            ("a b", "no node's name"),
            ("a[0-99999999999999999999]", "no number"),
            ("a[0-65536]", "more than"),
            ("a[0-999999999999][0-999999999999]", "more than"),
        ] {
            let error = hostnames(list).unwrap_err();
            assert!(error.what.contains(said), "{list}: {error:?}");
            assert!(error.place.unwrap().ends_with("of a node list"), "{list}");
        }
        assert_eq!(hostnames("a[0-65535]").unwrap().len(), NODES_MAX);
        assert!(hostnames(&"a".repeat(NAME_MAX + 1)).is_err());
    }

    /// A list as a tree, written down by one function and counted out by another.
    type Numbers = Vec<(u64, u64, usize)>;

    fn written(items: &[Vec<(String, Numbers)>]) -> String {
        let bracket = |numbers: &Numbers| {
            let one = |&(first, more, width): &(u64, u64, usize)| match more {
                0 => format!("{first:0width$}"),
                _ => format!("{first:0width$}-{}", first + more),
            };
            let inside = numbers.iter().map(one).collect::<Vec<_>>().join(",");
            if inside.is_empty() { inside } else { format!("[{inside}]") }
        };
        let item = |parts: &Vec<(String, Numbers)>| -> String {
            parts.iter().map(|(text, numbers)| format!("{text}{}", bracket(numbers))).collect()
        };
        items.iter().map(item).collect::<Vec<_>>().join(",")
    }

    fn counted(before: &str, parts: &[(String, Numbers)], out: &mut Vec<String>) {
        let Some(((text, numbers), rest)) = parts.split_first() else {
            return out.push(before.to_owned());
        };
        if numbers.is_empty() {
            counted(&format!("{before}{text}"), rest, out);
        }
        for (first, more, width) in numbers {
            for number in *first..first + more + 1 {
                let mut digits = number.to_string();
                while digits.len() < *width {
                    digits.insert(0, '0');
                }
                counted(&format!("{before}{text}{digits}"), rest, out);
            }
        }
    }

    proptest! {
        #[test]
        fn any_list_is_expanded_as_counted_out(
            items in prop::collection::vec(prop::collection::vec(
                ("[a-z][a-z_.]{0,3}", prop::collection::vec((0_u64..1200, 0_u64..6, 0_usize..5), 0..3)),
                1..4,
            ), 1..4)
        ) {
            let mut expected = Vec::new();
            for parts in &items {
                counted("", parts, &mut expected);
            }
            prop_assert_eq!(hostnames(&written(&items)).unwrap(), expected);
        }

        #[test]
        fn any_text_is_expanded_or_refused_within_bounds(list in "[a-b0-9,\\[\\]-]{0,40}") {
            if let Ok(names) = hostnames(&list) {
                prop_assert!(names.len() <= NODES_MAX);
                prop_assert!(names.iter().all(|name| !name.is_empty() && name.len() <= NAME_MAX));
            }
        }
    }
}
