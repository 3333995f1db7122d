//! Reads what `ptxas -v` says of each kernel, and makes the table that docs/gpu.md shows of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// The resources that a kernel takes on one architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    pub(super) registers: u32,
    /// Bytes stored to local memory for want of registers, and loaded again.
    pub(super) spilled: u32,
}

/// Reads the compiler's report: a line with the kernel's name, one with stack and spills, one with registers.
pub(super) fn parse(report: &str) -> Result<BTreeMap<String, Usage>> {
    let mut usages = BTreeMap::new();
    let (mut kernel, mut spilled) = (None, 0);
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().map(str::to_owned);
        } else if line.contains("bytes spill stores") {
            spilled = number_before(line, " bytes spill stores")?
                + number_before(line, " bytes spill loads")?;
        } else if line.contains(" registers") && line.contains("Used ") {
            let name = kernel.take().context("registers of a kernel without a name")?;
            let registers = number_before(line, " registers")?;
            usages.insert(name, Usage { registers, spilled });
        }
    }
    ensure!(!usages.is_empty(), "the compiler reported no kernel:\n{report}");
    Ok(usages)
}

fn number_before(line: &str, word: &str) -> Result<u32> {
    let (before, _) = line.split_once(word).with_context(|| format!("no `{word}` in: {line}"))?;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no number before `{word}` in: {line}"))
}

/// A kernel as it is started.
pub(super) struct Start {
    pub(super) threads: u32,
    pub(super) shared: u32,
}

/// Lines of `kernel threads bytes`.
pub(super) fn parse_starts(lines: &str) -> Result<BTreeMap<String, Start>> {
    let start = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, threads, shared] = words[..] else {
            anyhow::bail!("not `kernel threads bytes`: {line}")
        };
        Ok((name.to_owned(), Start { threads: threads.parse()?, shared: shared.parse()? }))
    };
    lines.lines().map(start).collect()
}

/// Kernels that are left out of a generation's binary are empty there; nothing real fits so few registers.
const EMPTY: u32 = 8;

/// Kernel × architecture: registers of a thread.
pub(super) fn table(
    architectures: &[&str],
    usages: &[BTreeMap<String, Usage>],
    starts: &BTreeMap<String, Start>,
) -> String {
    let mut table =
        format!("| kernel | threads | shared memory | {} |\n", architectures.join(" | "));
    table += &format!("|---|---:|---:|{}\n", "---:|".repeat(architectures.len()));
    for (kernel, start) in starts {
        let cells = usages.iter().map(|usage| match usage.get(kernel) {
            Some(usage) if usage.registers > EMPTY => usage.registers.to_string(),
            _ => "–".into(),
        });
        let shared = match start.shared {
            0 => "–".into(),
            bytes @ ..1024 => format!("{bytes} B"),
            bytes => format!("{:.1} KB", f64::from(bytes) / 1024.),
        };
        let cells: Vec<_> = cells.collect();
        table +=
            &format!("| `{kernel}` | {} | {shared} | {} |\n", start.threads, cells.join(" | "));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 222 registers, used 1 barriers, 536 bytes cmem[0]
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 4 registers
";

    #[test]
    fn registers_and_spills_are_read() {
        let usages = parse(REPORT).unwrap();
        assert_eq!(usages["a"], Usage { registers: 222, spilled: 0 });
        assert_eq!(usages["b"], Usage { registers: 4, spilled: 20 });
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn a_kernel_that_is_left_out_has_a_dash() {
        let starts = parse_starts("a 128 2048\nb 64 0\n").unwrap();
        let table = table(&["sm_80"], &[parse(REPORT).unwrap()], &starts);
        assert!(table.contains("| `a` | 128 | 2.0 KB | 222 |"), "{table}");
        assert!(table.contains("| `b` | 64 | – | – |"), "{table}");
        assert!(parse_starts("a 128").is_err());
    }
}
