//! Draws the dashboard: what stands where, in any size of terminal.

use indicatif::{HumanBytes, HumanCount};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, BorderType, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap,
};

use super::super::super::watch::visible;
use super::super::stop;
use super::State;

const TRAINING: Color = Color::Cyan;
const HELD_OUT: Color = Color::Yellow;
const SOFT: Color = Color::DarkGray;

/// The whole picture. What does not fit is left out, the chart last; a narrow terminal has the parts below each other.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    let (below, side) = (area.height >= 18, area.width >= WIDE);
    let (least, most) = if side { (4, 12) } else { (8, 16) };
    let texts = if below { (area.height - 17).clamp(least, most) } else { 0 };
    let [title, bar, brief, middle, lower, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(u16::from(!side && area.height >= 8)),
        Constraint::Min(3),
        Constraint::Length(texts),
        Constraint::Length(1),
    ])
    .areas(area);
    heading(frame, title, state);
    progress(frame, bar, state);
    let numbers_width = if side { 28 } else { 0 };
    let [plot, numbers] =
        Layout::horizontal([Constraint::Min(20), Constraint::Length(numbers_width)]).areas(middle);
    chart(frame, plot, state);
    match side {
        true => figures(frame, numbers, state),
        false => figures_in_brief(frame, brief, state),
    }
    if below {
        let halves = [Constraint::Percentage(50), Constraint::Percentage(50)];
        let halves = if side { Layout::horizontal(halves) } else { Layout::vertical(halves) };
        let [one, other] = halves.areas(lower);
        sample(frame, one, state);
        messages(frame, other, state);
    }
    footer(frame, keys, state);
}

/// The width from which on parts stand beside each other.
const WIDE: u16 = 64;

/// The first of some texts, the longest first, that a line of this width has room for; else the last one.
fn fitting(width: u16, texts: impl IntoIterator<Item = String>) -> String {
    let mut shortest = String::new();
    for text in texts {
        let fits = text.chars().count() <= usize::from(width);
        shortest = text;
        if fits {
            break;
        }
    }
    shortest
}

fn plain(text: &str) -> String {
    text.chars().map(visible).collect()
}

fn panel(title: String) -> Block<'static> {
    let title = Span::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD));
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(SOFT))
        .title(title)
}

fn heading(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let number = state.stages.iter().position(|name| *name == state.last.stage);
    let (name, doing) = (plain(&state.name), plain(&state.doing));
    let stages = match number {
        Some(at) => {
            let (at, all, stage) = (at + 1, state.stages.len(), plain(&state.last.stage));
            [
                format!("{stage} ({at} of {all})"),
                format!("{stage} {at}/{all}"),
                format!("stage {at}/{all}"),
            ]
        }
        None => ["starting", "starting", ""].map(str::to_owned),
    };
    // The run's name goes first where room is short: the thing that is being done is news, and it is not.
    let forms = [
        (name.as_str(), &stages[0]),
        (name.as_str(), &stages[1]),
        (name.as_str(), &stages[2]),
        ("", &stages[2]),
        ("", &String::new()),
    ]
    .map(|(name, stage)| {
        let parts = [name, stage, &doing].into_iter().filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect::<Vec<_>>()
    });
    let width =
        |parts: &Vec<String>| parts.iter().map(|part| part.chars().count() + 2).sum::<usize>();
    let room = usize::from(area.width) + 1;
    let parts = forms.iter().find(|parts| width(parts) <= room).unwrap_or(&forms[4]);
    let style = |part: &String| match part {
        part if *part == name => Style::new().bold().fg(Color::Cyan),
        part if *part == doing => Style::new().fg(HELD_OUT),
        _ => Style::new(),
    };
    let spans = parts.iter().map(|part| Span::styled(format!(" {part} "), style(part)));
    frame.render_widget(Paragraph::new(Line::from_iter(spans)), area);
}

fn progress(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let (step, total) = (state.last.step, state.total.max(1));
    let left = state.pace.left(total.saturating_sub(step));
    let (at, all) = (HumanCount(step), HumanCount(total));
    let with =
        |before: &str| left.as_ref().map_or(String::new(), |left| format!("{before}{left} left"));
    let labels = [
        format!("step {at} of {all}{}", with("   about ")),
        format!("step {at} of {all}{}", with("  ")),
        format!("{at}/{all}{}", with("  ")),
        format!("{at}/{all}"),
    ];
    let label = fitting(area.width, labels);
    let gauge = Gauge::default()
        .gauge_style(Style::new().fg(Color::Blue).bg(Color::Black))
        .ratio((step as f64 / total as f64).clamp(0.0, 1.0))
        .label(Span::styled(label, Style::new().fg(Color::White).bold()));
    frame.render_widget(gauge, area);
}

fn chart(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let scale = |(x, y): (f64, f64)| (x, if state.is_log { y.max(1e-9).log10() } else { y });
    let finite = |(_, y): &(f64, f64)| y.abs() < 1e12;
    let losses = state.losses.points.iter().copied().filter(finite);
    let losses: Vec<_> = losses.map(scale).collect();
    let held_out = state.held_out.iter().copied().filter(finite);
    let held_out: Vec<_> = held_out.map(scale).collect();
    let title = match (state.is_log, area.width < 48) {
        (true, false) => "loss, log nats/token",
        (false, false) => "loss, nats/token",
        (_, true) => "loss",
    };
    let all = || losses.iter().chain(&held_out);
    let Some(&(first, _)) = all().min_by(|a, b| a.0.total_cmp(&b.0)) else {
        let text = Paragraph::new("no step has been taken yet").fg(SOFT);
        frame.render_widget(text.block(panel(title.to_owned())), area);
        return;
    };
    let last = all().fold(first, |x, point| x.max(point.0)).max(first + 1.0);
    let low = all().fold(f64::INFINITY, |y, point| y.min(point.1));
    let high = all().fold(f64::NEG_INFINITY, |y, point| y.max(point.1));
    let pad = ((high - low) * 0.06).max(1e-3);
    let (low, high) = (low - pad, high + pad);
    let shown = |y: f64| format!("{:.2}", if state.is_log { 10f64.powf(y) } else { y });
    let mut sets = vec![
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(TRAINING))
            .data(&losses),
    ];
    if !held_out.is_empty() {
        sets.push(
            Dataset::default()
                .marker(Marker::Dot)
                .graph_type(GraphType::Scatter)
                .style(Style::new().fg(HELD_OUT))
                .data(&held_out),
        );
    }
    let x = [first, (first + last) / 2.0, last].map(|x| HumanCount(x as u64).to_string());
    let y = [low, (low + high) / 2.0, high].map(shown);
    let soft = Style::new().fg(SOFT);
    let chart = Chart::new(sets)
        .block(panel(title.to_owned()).title_top(key(state).right_aligned()))
        .x_axis(Axis::default().style(soft).bounds([first, last]).labels(x))
        .y_axis(Axis::default().style(soft).bounds([low, high]).labels(y));
    frame.render_widget(chart, area);
}

/// The names of the chart's colours.
fn key(state: &State) -> Line<'static> {
    let mut spans = vec![Span::styled("─ training ", Style::new().fg(TRAINING))];
    if !state.held_out.is_empty() {
        spans.push(Span::styled("• held out ", Style::new().fg(HELD_OUT)));
    }
    Line::from(spans)
}

/// The numbers of the last step, a line each.
fn figures(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let m = &state.last;
    let machine = m.machine.unwrap_or_default();
    let masked = m.supervised > 0;
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut row = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    row("loss", masked.then(|| format!("{:.4}", m.loss_unweighted)));
    row("held out", state.held_out.last().map(|(_, y)| format!("{y:.4}")));
    row("best", state.best.map(|(step, y)| format!("{y:.4} @{step}")));
    row("gradient", masked.then(|| format!("{:.3}", m.grad_norm)));
    row("rate", Some(format!("{:.2e}", m.lr)).filter(|_| m.step > 0));
    row("masked", m.mask_rate.map(|rate| format!("{:.1} %", 100.0 * rate)));
    row("tokens/s", state.pace.tokens_per_second().map(|n| HumanCount(n as u64).to_string()));
    row("of peak", machine.share_of_peak.map(|share| format!("{:.1} %", 100.0 * share)));
    row("memory", machine.memory_bytes.map(|bytes| HumanBytes(bytes).to_string()));
    row("tokens", Some(HumanCount(m.tokens).to_string()).filter(|_| m.tokens > 0));
    row("epoch", m.epoch.map(|epoch| format!("{epoch:.3}")));
    row("skipped", Some(m.skipped.to_string()).filter(|_| m.skipped > 0));
    let lines: Vec<Line<'_>> = rows
        .into_iter()
        .map(|(name, value)| {
            Line::from(vec![
                Span::styled(format!("{name:<9}"), Style::new().fg(SOFT)),
                Span::styled(format!("{value:>16}"), Style::new().bold()),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(panel("last step".to_owned())), area);
}

/// The numbers that matter most, in one line.
fn figures_in_brief(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let m = &state.last;
    if m.supervised == 0 {
        return;
    }
    let held_out = state.held_out.last().map(|(_, y)| format!("  held out {y:.3}"));
    let speed = state.pace.tokens_per_second();
    let speed = speed.map(|n| format!("  {} tokens/s", HumanCount(n as u64)));
    let (held_out, speed) = (held_out.unwrap_or_default(), speed.unwrap_or_default());
    let loss = format!(" loss {:.3}", m.loss_unweighted);
    let text =
        fitting(area.width, [format!("{loss}{held_out}{speed}"), format!("{loss}{speed}"), loss]);
    frame.render_widget(Paragraph::new(Line::from(text).bold()), area);
}

fn sample(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let (title, text) = match &state.sample {
        Some((step, text)) => (format!("it writes, after step {step}"), text.as_str()),
        None => ("it writes".to_owned(), "nothing yet: evaluation.sample_every asks for it"),
    };
    let lines: Vec<Line<'_>> =
        text.lines().map(|line| Line::from(plain(&line.replace('\t', "    ")))).collect();
    let lines = Paragraph::new(lines).wrap(Wrap { trim: false });
    frame.render_widget(lines.block(panel(title)), area);
}

fn messages(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let (rows, columns) = (area.height.saturating_sub(2), area.width.saturating_sub(2));
    // Of the newest messages, as many as there is room for: a long one takes several rows.
    let mut room = usize::from(rows);
    let newest = state.messages.iter().rev().take_while(|text| {
        let taken = text.chars().count().div_ceil(usize::from(columns).max(1)).max(1);
        let fits = taken <= room;
        room = room.saturating_sub(taken);
        fits
    });
    let first = state.messages.len() - newest.count().max(1).min(state.messages.len());
    let lines: Vec<Line<'_>> = state
        .messages
        .iter()
        .skip(first)
        .map(|text| {
            let style = if text.starts_with("warning") {
                Style::new().fg(Color::Red)
            } else {
                Style::new()
            };
            Line::styled(plain(text), style)
        })
        .collect();
    let lines = Paragraph::new(lines).wrap(Wrap { trim: false });
    frame.render_widget(lines.block(panel("messages".to_owned())), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let text = if stop::is_asked() {
        let texts = [
            " finishing the step and writing a checkpoint; q again ends at once",
            " saving; q again ends at once",
            " saving",
        ];
        Line::from(fitting(area.width, texts.map(str::to_owned))).fg(HELD_OUT)
    } else {
        let (scale, short) = if state.is_log { ("linear", "lin") } else { ("logarithmic", "log") };
        let texts = [
            format!(" q  save and end    l  {scale} scale"),
            format!(" q  save and end  l  {short} scale"),
            format!(" q end  l {short}"),
        ];
        Line::from(fitting(area.width, texts)).fg(SOFT)
    };
    frame.render_widget(Paragraph::new(text), area);
}

#[cfg(test)]
mod tests;
