//! Bytes of records: numbers as LEB128, texts with their length before them. Each record begins with its version.

use jiff::Timestamp;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("it ends too early")]
    Short,
    #[error("it goes on after its end")]
    Long,
    #[error("version {0} is not known")]
    Version(u8),
    #[error("a number is too large")]
    Number,
    #[error("a text is not UTF-8")]
    Text,
    #[error("a time is out of range")]
    Time,
    #[error("{0} is no {1}")]
    Code(u8, &'static str),
    #[error("a part is missing")]
    Part,
}

/// Appends fields.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn version(version: u8) -> Self {
        Self { bytes: vec![version] }
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            // Seven bits and a flag: the cast keeps exactly those.
            self.bytes.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub(crate) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.number(value.len() as u64);
        self.raw(value.as_bytes());
    }

    /// None and the empty text are two things.
    pub(crate) fn option(&mut self, value: Option<&str>) {
        match value {
            None => self.byte(0),
            Some(text) => {
                self.byte(1);
                self.text(text);
            }
        }
    }

    pub(crate) fn texts(&mut self, values: &[String]) {
        self.number(values.len() as u64);
        for value in values {
            self.text(value);
        }
    }

    pub(crate) fn time(&mut self, time: Timestamp) {
        self.signed(time.as_second());
        self.signed(i64::from(time.subsec_nanosecond()));
    }
}

/// Takes fields off the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A record whose version must be this one.
    pub(crate) fn version(bytes: &'a [u8], version: u8) -> Result<Self, DecodeError> {
        let mut reader = Self { rest: bytes };
        match reader.byte()? {
            found if found == version => Ok(reader),
            other => Err(DecodeError::Version(other)),
        }
    }

    /// Content whose version was read before.
    pub(crate) const fn bare(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Long) }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.raw(N)?.try_into().map_err(|_| DecodeError::Short)
    }

    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Number)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, DecodeError> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(crate) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, DecodeError> {
        T::try_from(self.number()?).map_err(|_| DecodeError::Number)
    }

    pub(crate) fn text(&mut self) -> Result<String, DecodeError> {
        let len = self.small()?;
        let bytes = self.raw(len)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::Text)
    }

    pub(crate) fn option(&mut self) -> Result<Option<String>, DecodeError> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            other => Err(DecodeError::Code(other, "option")),
        }
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Code(other, "flag")),
        }
    }

    pub(crate) fn texts(&mut self) -> Result<Vec<String>, DecodeError> {
        let count: usize = self.small()?;
        // A damaged count must not reserve memory: each entry takes at least one byte of what is there.
        if count > self.rest.len() {
            return Err(DecodeError::Short);
        }
        (0..count).map(|_| self.text()).collect()
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, DecodeError> {
        let seconds = self.signed()?;
        let nanoseconds = i32::try_from(self.signed()?).map_err(|_| DecodeError::Time)?;
        Timestamp::new(seconds, nanoseconds).map_err(|_| DecodeError::Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(number: u64, signed: i64, text: String, list: Vec<String>, option: Option<String>) {
            let mut w = Writer::version(1);
            w.number(number);
            w.signed(signed);
            w.text(&text);
            w.texts(&list);
            w.option(option.as_deref());
            let mut r = Reader::version(&w.bytes, 1).unwrap();
            prop_assert_eq!(r.number().unwrap(), number);
            prop_assert_eq!(r.signed().unwrap(), signed);
            prop_assert_eq!(r.text().unwrap(), text);
            prop_assert_eq!(r.texts().unwrap(), list);
            prop_assert_eq!(r.option().unwrap(), option);
            prop_assert_eq!(r.end(), Ok(()));
        }
    }

    #[test]
    fn numbers_over_64_bits_are_refused() {
        let mut bytes = vec![1];
        bytes.extend([0xff; 9]);
        bytes.push(0x02);
        assert_eq!(Reader::version(&bytes, 1).unwrap().number(), Err(DecodeError::Number));
    }
}
