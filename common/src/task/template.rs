//! Text with columns in braces.

/// A text, taken apart: `"{title}: {body}"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// Takes a text apart.
    ///
    /// # Errors
    /// Says, as a fragment, which brace has no partner.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                // A doubled brace is a brace.
                '{' | '}' if letters.next_if_eq(&letter).is_some() => plain.push(letter),
                '{' => {
                    let mut column = String::new();
                    loop {
                        match letters.next() {
                            Some('}') => break,
                            Some('{') | None => return Err("a `{` is not closed".into()),
                            Some(letter) => column.push(letter),
                        }
                    }
                    if column.is_empty() {
                        return Err("a pair of braces names no column".into());
                    }
                    parts.extend(
                        (!plain.is_empty()).then(|| Part::Text(std::mem::take(&mut plain))),
                    );
                    parts.push(Part::Column(column));
                }
                '}' => return Err("a `}` has no `{`".into()),
                _ => plain.push(letter),
            }
        }
        parts.extend((!plain.is_empty()).then_some(Part::Text(plain)));
        Ok(Self { parts })
    }

    /// The columns, in the text's order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text of a row, whose columns `value` gives.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn fill<E>(&self, value: impl Fn(&str) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Column(name) => text.push_str(&value(name)?),
            }
        }
        Ok(text)
    }
}
