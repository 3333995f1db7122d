//! Refuses flags of `lacuna score` that do not go together, and says which to leave out.

use std::path::Path;

use super::super::decode_args::whole_canvas;
use super::Args;

/// Refuses flags that do not go together, in words that say which to leave out.
pub(super) fn check(args: &Args) -> Result<(), String> {
    whole_canvas(args.how.attention, args.how.block_size)?;
    let hole = [
        ("--prefix", args.prefix.is_some()),
        ("--middle", args.middle.is_some()),
        ("--suffix", args.suffix.is_some()),
    ];
    let inputs = [
        ("--text", !args.text.is_empty()),
        ("--ids", args.ids.is_some()),
        ("--jsonl", args.jsonl.is_some()),
        ("--middle", hole.iter().any(|(_, given)| *given)),
    ];
    let given: Vec<&str> =
        inputs.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect();
    match given[..] {
        [] => {
            return Err("nothing to score; give --text PATH, --ids LIST, --jsonl FILE, or --prefix, --middle and \
                        --suffix"
                .into());
        }
        [_] => {}
        [one, other, ..] => {
            return Err(format!("{one} and {other}: each names what is scored; leave one out"));
        }
    }
    if let (Some((flag, _)), true) = (hole.iter().find(|(_, given)| !given), inputs[3].1) {
        return Err(format!(
            "no {flag}: a middle needs --prefix, --middle and --suffix; a file of nothing is one"
        ));
    }
    if args.lines.is_some() && (args.text.len() != 1 || args.text[0].is_dir()) {
        return Err("--lines: the lines of one file are meant; give a single --text FILE".into());
    }
    let is_several =
        args.jsonl.is_some() || args.text.len() > 1 || args.text.iter().any(|path| path.is_dir());
    let middles = inputs[3].1 || args.lines.is_some() || args.jsonl.is_some();
    let stdin = args.text.iter().filter(|path| *path == Path::new("-")).count();
    let to_stdout = args.jsonl.is_some() && args.out.is_none();
    let order = &args.order;
    let refusals = [
        (stdin > 1, "--text -: stdin can be read once; leave the others out"),
        (
            args.out.as_deref() == Some(Path::new("-")),
            "--out -: expected a file, so that a run that was ended can be gone on with; --jsonl writes to stdout without --out",
        ),
        (
            args.out.is_some() && !is_several,
            "--out: one text has no lines of its own; --json prints its scores as an object",
        ),
        (
            args.json && to_stdout,
            "--json: --jsonl prints a JSON object a line already; leave --json out, or give --out FILE to have the lines there and \
             the sum here",
        ),
        (
            args.documents == "joined" && args.jsonl.is_some(),
            "--documents joined: lines of --jsonl are texts by themselves; leave it out",
        ),
        (
            args.documents == "joined" && args.out.is_some(),
            "--documents joined: texts in a row have one score; leave --out out",
        ),
        (
            args.documents == "joined" && !is_several,
            "--documents joined: there is one text; give a folder, or --text more than once",
        ),
        (
            args.infill.is_some() && !middles,
            "--infill: there is no middle; give --lines, --prefix with --middle and --suffix, or --jsonl",
        ),
        (
            !order.any_order && order.fill.is_some(),
            "--fill: it belongs to --any-order; give that too",
        ),
        (
            !order.any_order && order.thresholds.is_some(),
            "--thresholds: they belong to --any-order; give that too",
        ),
        (!order.any_order && order.plot.is_some(), "--plot: it draws --any-order; give that too"),
        (
            order.any_order && !args.how.method.is_empty(),
            "--method: --any-order has a likelihood of its own; leave one of the two out",
        ),
    ];
    match refusals.into_iter().find(|(is_wrong, _)| *is_wrong) {
        Some((_, why)) => Err(why.into()),
        None => Ok(()),
    }
}
