//! Draws a run as one page that needs nothing else: scores, a plot, every task, every program.

use std::collections::HashMap;
use std::fmt::Write;

use crate::estimate::{Estimate, pass_at_k};
use crate::judge::Verdict;
use crate::sample::Sample;
use crate::summary::Summary;

/// Programs that are shown with the page; more would make it heavy.
const MOST_SHOWN: usize = 2000;

/// Characters of a program that are shown.
const LONGEST_SHOWN: usize = 8000;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2833;background:#fff}\
h1,h2{font-weight:600}table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}\
pre{background:#f4f6f7;padding:.8rem;overflow:auto;font-size:13px}summary{cursor:pointer}.pass{color:#1e7d46}.fail{color:#b03a2e}\
.tasks a{display:inline-block;width:14px;height:14px;margin:1px}svg text{font:12px system-ui,sans-serif;fill:#1c2833}\
@media(prefers-color-scheme:dark){body{background:#17202a;color:#e5e8e8}pre{background:#212f3d}svg text{fill:#e5e8e8}}";

/// The page of a summary with its samples.
#[must_use]
pub fn html(summary: &Summary, samples: &[Sample], verdicts: &[Verdict]) -> String {
    let name = escaped(&summary.benchmark);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name}</title><style>{STYLE}</style>\n<h1>{name}</h1>\n<p>{}</p>\n",
        escaped(&summary.scope().replace("**", ""))
    );
    page += "<table><tr><th>score</th><th>estimate</th><th>95 % of draws of tasks</th></tr>\n";
    for (score, Estimate { mean, low, high }) in summary.scores() {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{:.1} %</td><td>{:.1} to {:.1} %</td></tr>",
            escaped(&score),
            100.0 * mean,
            100.0 * low,
            100.0 * high
        );
    }
    page += "</table>\n";
    if let Some(cost) = summary.cost {
        let _ = writeln!(
            page,
            "<p>{} new tokens in {} passes, {:.2} a pass.</p>",
            cost.tokens,
            cost.forwards,
            cost.tokens_per_forward()
        );
    }
    page += "<table>\n";
    for (fact, value) in &summary.facts {
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", escaped(fact), escaped(value));
    }
    page += "</table>\n";
    page += &plot(summary);
    page += &grid(summary);
    page += &programs(summary, samples, verdicts);
    page
}

/// A curve of pass@k with its interval; with one sample a task, the scores as bars.
fn plot(summary: &Summary) -> String {
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 220.0;
    const LEFT: f64 = 44.0;
    const BOTTOM: f64 = 28.0;
    let samples = summary.tasks.iter().map(|task| task.samples).min().unwrap_or(0);
    let y = |part: f64| 8.0 + (1.0 - part) * (HEIGHT - BOTTOM - 8.0);
    let mut svg = format!(
        "<h2>pass@k</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" aria-label=\"pass@k\">\n"
    );
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let at = y(part);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#95a5a6\" stroke-width=\"0.5\"/>\
             <text x=\"4\" y=\"{:.1}\">{:.0} %</text>",
            at + 4.0,
            100.0 * part
        );
    }
    if samples > 1 {
        // Logarithmic: the first samples matter most.
        let x = |k: usize| {
            LEFT + 10.0 + (k as f64).ln() / (samples as f64).ln() * (WIDTH - LEFT - 30.0)
        };
        let ks: Vec<usize> = (1..=samples)
            .filter(|k| samples <= 64 || k.is_power_of_two() || *k == samples)
            .collect();
        let mean = |k: usize| {
            let each = summary.tasks.iter().map(|task| pass_at_k(task.samples, task.passed, k));
            each.sum::<f64>() / summary.tasks.len().max(1) as f64
        };
        let points =
            ks.iter().map(|k| format!("{:.1},{:.1}", x(*k), y(mean(*k)))).collect::<Vec<_>>();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#2471a3\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for (k, estimate) in &summary.pass_at {
            svg += &mark(x(*k), &format!("{k}"), estimate, &y, HEIGHT);
        }
    } else {
        for (number, (score, estimate)) in summary.scores().into_iter().enumerate() {
            let at = LEFT + 30.0 + 220.0 * number as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{at:.1}\" width=\"60\" y=\"{:.1}\" height=\"{:.1}\" fill=\"#2471a3\"/>",
                y(estimate.mean),
                y(0.0) - y(estimate.mean)
            );
            svg += &mark(at + 30.0, &score, &estimate, &y, HEIGHT);
        }
    }
    svg + "</svg>\n"
}

/// A point with its interval and its name.
fn mark(x: f64, name: &str, estimate: &Estimate, y: &dyn Fn(f64) -> f64, height: f64) -> String {
    let Estimate { mean, low, high } = *estimate;
    format!(
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#e67e22\" stroke-width=\"2\"/>\
         <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#e67e22\"/>\
         <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
        y(low),
        y(high),
        y(mean),
        height - 8.0,
        escaped(name)
    )
}

/// A square for each task, the greener the more of its samples passed.
fn grid(summary: &Summary) -> String {
    let mut html = "<h2>Tasks</h2>\n<p class=\"tasks\">\n".to_owned();
    for (number, task) in summary.tasks.iter().enumerate() {
        let part = task.passed as f64 / task.samples.max(1) as f64;
        let hue = 120.0 * part;
        let _ = writeln!(
            html,
            "<a href=\"#t{number}\" title=\"{}: {} of {}\" style=\"background:hsl({hue:.0},55%,45%)\"></a>",
            escaped(&task.id),
            task.passed,
            task.samples
        );
    }
    html + "</p>\n"
}

/// Every task with its programs.
fn programs(summary: &Summary, samples: &[Sample], verdicts: &[Verdict]) -> String {
    let mut of_tasks: HashMap<&str, Vec<(&Sample, &Verdict)>> = HashMap::new();
    for pair in samples.iter().zip(verdicts) {
        of_tasks.entry(&pair.0.task).or_default().push(pair);
    }
    let mut html = String::new();
    let mut left = MOST_SHOWN;
    for (number, task) in summary.tasks.iter().enumerate() {
        let class = if task.passed == task.samples { "pass" } else { "fail" };
        let _ = writeln!(
            html,
            "<details id=\"t{number}\"><summary class=\"{class}\">{}: {} of {}{}</summary>",
            escaped(&task.id),
            task.passed,
            task.samples,
            if task.reason.is_empty() {
                String::new()
            } else {
                format!(" – {}", escaped(&task.reason))
            }
        );
        let all = of_tasks.get(&*task.id).map_or(&[][..], Vec::as_slice);
        for (sample, verdict) in all.iter().take(left) {
            let text: String = sample.program.chars().take(LONGEST_SHOWN).collect();
            let _ = writeln!(
                html,
                "<p>{}: {}</p><pre>{}</pre>",
                sample.number,
                escaped(&verdict.result),
                escaped(&text)
            );
        }
        left -= all.len().min(left);
        html += "</details>\n";
    }
    html
}

/// Text that can't be taken for markup; a model wrote it.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in lacuna_files::printable(text).chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}
