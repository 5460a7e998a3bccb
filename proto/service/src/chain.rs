//! Errors in full: what failed, and what lay under it.

use std::error::Error;
use std::fmt;

/// Prints an error and all its sources, outermost first: `cannot write X: no space left on device`.
/// A source whose text is already the end of what was printed is not repeated.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            next = source.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write /x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn sources_follow_and_are_not_repeated() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(Chain(&error).to_string(), "cannot write /x: disk on fire");
        let error = std::io::Error::other(Outer(std::io::Error::other("disk on fire")));
        assert_eq!(Chain(&error).to_string(), "cannot write /x: disk on fire");
    }
}
