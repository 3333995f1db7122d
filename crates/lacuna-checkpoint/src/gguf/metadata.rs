//! Collects the bytes of metadata on their way into a GGUF file.

/// Metadata entries in the order they are given.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) count: u64,
    pub(super) bytes: Vec<u8>,
}

impl Metadata {
    fn entry(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.count += 1;
        put_text(&mut self.bytes, key);
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        &mut self.bytes
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        put_text(self.entry(key, 8), text);
    }

    pub(super) fn number(&mut self, key: &str, n: u32) {
        self.entry(key, 4).extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn float(&mut self, key: &str, x: f32) {
        self.entry(key, 6).extend_from_slice(&x.to_le_bytes());
    }

    pub(super) fn truth(&mut self, key: &str, truth: bool) {
        self.entry(key, 7).push(u8::from(truth));
    }

    /// Adds an entry whose type and value are given as a file has them.
    pub(super) fn encoded(&mut self, key: &str, value: &[u8]) {
        self.count += 1;
        put_text(&mut self.bytes, key);
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn array(&mut self, key: &str, kind: u32, len: usize) -> &mut Vec<u8> {
        let bytes = self.entry(key, 9);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes
    }

    pub(super) fn texts(&mut self, key: &str, texts: &[impl AsRef<str>]) {
        let bytes = self.array(key, 8, texts.len());
        texts.iter().for_each(|text| put_text(bytes, text.as_ref()));
    }

    pub(super) fn numbers(&mut self, key: &str, numbers: &[u32]) {
        let bytes = self.array(key, 4, numbers.len());
        numbers.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
    }

    pub(super) fn signed(&mut self, key: &str, numbers: &[i32]) {
        let bytes = self.array(key, 5, numbers.len());
        numbers.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
    }
}

pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}
