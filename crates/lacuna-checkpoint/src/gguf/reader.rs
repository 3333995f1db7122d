//! Reads values from the bytes of a GGUF file, with a cursor that never passes their end.

use std::ops::Range;

/// A metadata value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Value<'a> {
    Unsigned(u64, Kind),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
}

/// An array whose elements lie, checked for their length, in `bytes`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Array<'a> {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
}

/// The type of a metadata value, as the file numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Value<'_> {
    /// The length of [`encoded`](Self::encoded) in bytes, nearly.
    pub(super) fn encoded_len(&self) -> usize {
        match self {
            Value::Text(text) => 12 + text.len(),
            Value::Array(array) => 16 + array.bytes.len(),
            _ => 12,
        }
    }

    /// The type and the value as a file has them. A signed number takes 64 bits, whatever it had.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let of = |kind: Kind, bytes: &[u8]| [&(kind as u32).to_le_bytes(), bytes].concat();
        let counted = |len: usize, bytes: &[u8]| [&(len as u64).to_le_bytes(), bytes].concat();
        match self {
            Value::Unsigned(n, kind) => {
                of(*kind, &n.to_le_bytes()[..usize::try_from(kind.smallest()).unwrap_or(8)])
            }
            Value::Signed(n) => of(Kind::I64, &n.to_le_bytes()),
            Value::F32(x) => of(Kind::F32, &x.to_le_bytes()),
            Value::F64(x) => of(Kind::F64, &x.to_le_bytes()),
            Value::Bool(b) => of(Kind::Bool, &[u8::from(*b)]),
            Value::Text(text) => of(Kind::Text, &counted(text.len(), text.as_bytes())),
            Value::Array(array) => {
                let kind = (array.kind as u32).to_le_bytes();
                of(Kind::Array, &[&kind, &*counted(array.len, array.bytes)].concat())
            }
        }
    }
}

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        use Kind::*;
        let kinds = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// The fewest bytes that a value takes.
    fn smallest(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::Text => 8,
            Kind::Array => 12,
        }
    }
}

/// A metadata value as the header holds it: values that may be long stay in the file.
#[derive(Debug)]
pub(super) enum Stored {
    /// A number or a truth value.
    Plain(Value<'static>),
    Text(Range<usize>),
    Array {
        kind: Kind,
        len: usize,
        range: Range<usize>,
    },
}

impl<'a> Array<'a> {
    #[cfg(test)]
    pub(crate) fn new(kind: Kind, len: usize, bytes: &'a [u8]) -> Self {
        Self { kind, len, bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements, if they are strings; one that is no UTF-8 comes as `None`.
    pub(crate) fn texts(self) -> Option<impl Iterator<Item = Option<&'a str>>> {
        let mut reader = Reader { file: self.bytes, position: 0 };
        (self.kind == Kind::Text).then(|| (0..self.len).map(move |_| reader.text(u64::MAX).ok()))
    }

    /// The elements as whole numbers, if they are.
    pub(crate) fn integers(self) -> Option<impl Iterator<Item = i64>> {
        let mut reader = Reader { file: self.bytes, position: 0 };
        let whole = !matches!(self.kind, Kind::F32 | Kind::F64 | Kind::Text | Kind::Array);
        whole.then(|| {
            (0..self.len).map(move |_| match reader.plain(self.kind) {
                Ok(Value::Unsigned(n, _)) => i64::try_from(n).unwrap_or(i64::MAX),
                Ok(Value::Signed(n)) => n,
                Ok(Value::Bool(b)) => i64::from(b),
                _ => i64::MAX,
            })
        })
    }

    /// The elements as f32, if they are.
    pub(crate) fn floats(self) -> Option<impl Iterator<Item = f32>> {
        let chunks = self.bytes.chunks_exact(4);
        (self.kind == Kind::F32)
            .then(|| chunks.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))))
    }
}

/// A cursor that never passes the end.
pub(super) struct Reader<'a> {
    pub(super) file: &'a [u8],
    pub(super) position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn left(&self) -> u64 {
        (self.file.len() - self.position) as u64
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        if count > self.left() {
            let (at, left) = (self.position, self.left());
            return Err(format!("wants {count} bytes at {at}, the file has {left} left"));
        }
        let count = usize::try_from(count).expect("at most the file's length");
        let bytes = &self.file[self.position..][..count];
        self.position += count;
        Ok(bytes)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N as u64)?.try_into().expect("N bytes were taken"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    pub(super) fn text(&mut self, longest: u64) -> Result<&'a str, String> {
        let length = self.u64()?;
        if length > longest {
            return Err(format!("a name of {length} bytes, at most {longest} are allowed"));
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| "a string that is no UTF-8".to_owned())
    }

    pub(super) fn kind(&mut self) -> Result<Kind, String> {
        let id = self.u32()?;
        Kind::from_id(id).ok_or_else(|| format!("unknown value type {id}"))
    }

    pub(super) fn stored(&mut self, kind: Kind) -> Result<Stored, String> {
        match kind {
            Kind::Text => {
                let text = self.text(u64::MAX)?;
                Ok(Stored::Text(self.position - text.len()..self.position))
            }
            Kind::Array => self.array(),
            plain => self.plain(plain).map(Stored::Plain),
        }
    }

    /// Reads a number or a truth value.
    fn plain(&mut self, kind: Kind) -> Result<Value<'static>, String> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(self.bytes()?).into(), kind),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into(), kind),
            Kind::U32 => Value::Unsigned(self.u32()?.into(), kind),
            Kind::U64 => Value::Unsigned(self.u64()?, kind),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            Kind::Bool => match self.bytes::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("a truth value of {other}, expected 0 or 1")),
            },
            Kind::Text | Kind::Array => return Err("a value that is no number".to_owned()),
        })
    }

    /// Reads an array, whose elements are measured and left where they lie.
    fn array(&mut self) -> Result<Stored, String> {
        let kind = self.kind()?;
        let count = self.u64()?;
        if kind == Kind::Array {
            return Err("an array of arrays, which no model needs".to_owned());
        }
        if count > self.left() / kind.smallest() {
            let left = self.left();
            return Err(format!("an array of {count} values, the file has {left} bytes left"));
        }
        let start = self.position;
        if kind == Kind::Text {
            for _ in 0..count {
                let length = self.u64()?;
                self.take(length)?;
            }
        } else {
            self.take(count * kind.smallest())?;
        }
        let len = usize::try_from(count).expect("at most the file's length");
        Ok(Stored::Array { kind, len, range: start..self.position })
    }
}
