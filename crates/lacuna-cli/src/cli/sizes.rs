//! Reads and writes sizes in bytes as people do.

use indicatif::DecimalBytes;
use std::str::FromStr;

/// A number of bytes: `5GB`, `500MB`, `2GiB`, `1000000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

const UNITS: [(&str, u64); 11] = [
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("g", 1_000_000_000),
    ("m", 1_000_000),
    ("k", 1_000),
    ("b", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find_map(|(unit, n)| Some((lower.strip_suffix(unit)?, *n)));
        let (number, unit) = unit.unwrap_or((&lower, 1));
        let number: Option<f64> = number.trim().parse().ok();
        let bytes = number.map(|n| n * unit as f64).filter(|n| *n >= 1.0 && *n < 2f64.powi(63));
        let bytes = bytes.ok_or_else(|| format!("`{text}` is no size: 5GB, 500MB, 2GiB"))?;
        Ok(Self(bytes as u64))
    }
}

/// `4.64 GB`.
pub(crate) fn shown(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("5GB", 5_000_000_000), ("1.5 gb", 1_500_000_000), ("2GiB", 2 << 30), ("1000", 1000)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GB", "-1GB", "0", "1e99", "5 apples", "nan"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(shown(4_640_000_000), "4.64 GB");
        assert_eq!(shown(12), "12 B");
    }
}
