//! The table: printed, written as Markdown, and drawn as a plot. Goals that were missed are marked as such.

use std::fmt::Write;

use crate::process::Kind;
use crate::scenarios::Samples;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// CPU time by that of the raw loop in the same round. The raw loop's own cells are nanoseconds.
    Cpu,
    Ratio,
    Percent,
    Millis,
    Nanos,
    Bytes,
    /// System calls.
    Calls,
    Count,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// By more than the noise.
    NotAbove(Kind),
    /// So many times what the other has in the same round.
    #[cfg_attr(not(any(feature = "ftp", feature = "http")), allow(dead_code))]
    Times(f64, Kind),
}

/// What a figure is to be.
pub struct Goal {
    of: Kind,
    limit: Limit,
}

impl Goal {
    pub fn at_most(limit: f64) -> Goal {
        Goal { of: Kind::Network, limit: Limit::AtMost(limit) }
    }

    pub fn at_least(limit: f64) -> Goal {
        Goal { of: Kind::Network, limit: Limit::AtLeast(limit) }
    }

    pub fn not_above(other: Kind) -> Goal {
        Goal { of: Kind::Network, limit: Limit::NotAbove(other) }
    }

    #[cfg_attr(not(any(feature = "ftp", feature = "http")), allow(dead_code))]
    pub fn times(limit: f64, other: Kind) -> Goal {
        Goal { of: Kind::Network, limit: Limit::Times(limit, other) }
    }

    pub fn of(self, kind: Kind) -> Goal {
        Goal { of: kind, ..self }
    }

    /// In words, and whether it is met. None if that was not measured.
    fn check(&self, row: &Row) -> Option<(String, bool)> {
        let cells = row.cells.get(&self.of)?;
        // What is read as equal is equal.
        let shown = |value: f64| row.number(value).parse().unwrap_or(value);
        let middle = shown(median(cells));
        let ratios = |other: Kind| -> Option<Vec<f64>> {
            Some(cells.iter().zip(row.cells.get(&other)?).map(|(own, other)| own / other).collect())
        };
        let (words, met) = match self.limit {
            Limit::AtMost(limit) => (format!("≤ {}", row.number(limit)), middle <= limit),
            Limit::AtLeast(limit) => (format!("≥ {}", row.number(limit)), middle >= limit),
            Limit::NotAbove(other) => (format!("≤ {}", header(other)), quartiles(&ratios(other)?).0 <= NOISE),
            Limit::Times(limit, other) => {
                let ratio = median(&ratios(other)?);
                (format!("{ratio:.2} × {}, ≤ {limit:.2}", header(other)), ratio <= limit)
            }
        };
        let whose = if self.of == Kind::Network { String::new() } else { format!("{}: ", header(self.of)) };
        Some((format!("{whose}{words}"), met))
    }
}

/// Less than this beyond 1 is no difference.
const NOISE: f64 = 1.01;

pub struct Row {
    name: String,
    unit: Unit,
    cells: Samples,
    goals: Vec<Goal>,
    waited: Option<f64>,
}

impl Row {
    pub fn new(name: impl Into<String>, unit: Unit, cells: Samples, goals: impl IntoIterator<Item = Goal>) -> Row {
        Row { name: name.into(), unit, cells, goals: goals.into_iter().collect(), waited: None }
    }

    /// How much of its time the servers had to wait for their CPU, in percent.
    pub fn waited(self, percent: f64) -> Row {
        Row { waited: Some(percent), ..self }
    }

    /// Milliseconds for so many operations become nanoseconds for each.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub fn each(mut self, count: usize) -> Row {
        self.cells.values_mut().flatten().for_each(|time| *time *= 1e6 / count as f64);
        Row { unit: Unit::Nanos, ..self }
    }

    fn number(&self, value: f64) -> String {
        match self.unit {
            Unit::Count | Unit::Bytes | Unit::Nanos => format!("{value:.0}"),
            Unit::Percent => format!("{value:.1}"),
            Unit::Cpu | Unit::Ratio if value >= 9.95 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        }
    }

    fn cell(&self, kind: Kind) -> String {
        let Some(values) = self.cells.get(&kind) else { return "–".into() };
        let (low, high) = quartiles(values);
        let middle = median(values);
        let is_time = self.unit == Unit::Nanos || self.unit == Unit::Cpu && kind == Kind::Raw;
        let (number, unit): (fn(&Row, f64) -> String, _) = match self.unit {
            _ if is_time && middle >= 9999.5 => (|_, value| format!("{:.1}", value / 1e3), " µs"),
            _ if is_time => (|_, value| format!("{value:.0}"), " ns"),
            Unit::Percent => (Row::number, " %"),
            Unit::Millis => (Row::number, " ms"),
            Unit::Bytes => (Row::number, " B"),
            _ => (Row::number, ""),
        };
        match values.len() {
            _ if self.unit == Unit::Cpu && kind == Kind::Raw => format!("{}{unit}", number(self, middle)),
            1 => format!("{}{unit}", number(self, middle)),
            _ => format!("{} ± {}{unit}", number(self, middle), number(self, (high - low) / 2.0)),
        }
    }

    /// Each goal in words, with its mark.
    fn goals(&self) -> String {
        let goals = self.goals.iter().filter_map(|goal| goal.check(self));
        let marked = goals.map(|(words, met)| format!("{words} {}", if met { "✓" } else { "✗ missed" }));
        marked.collect::<Vec<_>>().join("; ")
    }
}

/// The first and the third, between the two values next to them.
fn quartiles(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = part * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    (at(0.25), at(0.75))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn header(kind: Kind) -> &'static str {
    match kind {
        Kind::Raw => "raw epoll",
        Kind::Libc => "… by libc",
        Kind::InGlib => "… in GLib",
        Kind::Network => "network",
        Kind::Fgloop => "fgloop",
        Kind::Unfair => "unfair",
        Kind::Tokio => "tokio",
        Kind::PerFd => "fd sources",
        Kind::Gio => "GIO",
        Kind::Python => "python",
        Kind::Blocking => "blocking",
        Kind::Libcurl => "libcurl",
        Kind::Ftplib => "ftplib",
        Kind::Hyper => "hyper",
        Kind::HyperUtil => "hyper-util",
        Kind::Libsoup => "libsoup",
    }
}

/// What the columns mean.
const LEGEND: &str = "\
Server CPU per operation: for `raw epoll`, a level-triggered epoll loop that knows nothing but its task, the time itself; for the
others that time divided by the raw loop's of the same round. Rows with another unit tell it. Each figure is the median of the
rounds, ± half the distance between the quartiles. Smaller is better, but for redraws and throughput.

- `… by libc`: the same loop, its messages received and sent by libc's functions, as C programs do, instead of by system calls in
  its own frame; `performance.md` tells what that costs.
- `… in GLib`: the same loop as the first, but it is watched by GLib's main loop, by a single source that does no more than it
  must: no program on that loop can cost less.
- `network`: this library on `glib::MainLoop`, as in a program with a window; `fgloop`: the same under its own loop.
- `tokio`: current-thread runtime. `fd sources`: GLib's main loop with a source for each descriptor, in C. `GIO`: GSocketService
  and its asynchronous streams, in C. `python`: Debian's python3-network.
- `unfair`, in the rows on floods: this library with its fairness turned off.
- `blocking`, `libcurl` and `ftplib`, in the rows on FTP: this library by blocking calls, and the clients of curl and of Python's standard
  library. These rows are CPU milliseconds of the clients, by files in memory; vsftpd serves them all.
- `hyper`, `hyper-util` and `libsoup`, in the rows on HTTP: hyper's connection alone and the client around it, both on tokio, and the client
  of GNOME. These rows are CPU time of the clients for each request; nginx serves them all. For the servers of HTTP and WebSocket, `tokio` is
  hyper and tungstenite.
- `goals` are those of `network` unless they name another column. `≤ tokio` is missed if three of four rounds
  say so by more than 1 %.
- Bulk and lines over one connection: a server that is faster than the load sleeps and wakes more often, which can cost the raw
  loop more than it saves: ratios under 1 there say \"as good\", no more.
- `waited`: for how much of the time that servers wanted to run their CPU was taken by others. Rows with much of it say little.
";

#[derive(Default)]
pub struct Report {
    /// With the name of their group.
    rows: Vec<(&'static str, Row)>,
    group: &'static str,
}

impl Report {
    /// The rows that follow are of that group.
    pub fn group(&mut self, name: &'static str) {
        self.group = name;
    }

    pub fn add(&mut self, row: Row) {
        eprintln!("  {}: {} {}", row.name, row.cell(Kind::Network), row.goals());
        self.rows.push((self.group, row));
    }

    fn columns(&self) -> Vec<Kind> {
        let measured = |kind: &Kind| self.rows.iter().any(|(_, row)| row.cells.contains_key(kind));
        Kind::ALL.into_iter().filter(measured).collect()
    }

    /// As Markdown, its columns lined up.
    pub fn table(&self) -> String {
        let columns = self.columns();
        let mut cells = vec![vec!["".to_string()]];
        cells[0].extend(columns.iter().map(|kind| header(*kind).to_string()));
        cells[0].extend(["goals".into(), "waited".into()]);
        for (_, row) in &self.rows {
            let mut line = vec![row.name.clone()];
            line.extend(columns.iter().map(|kind| row.cell(*kind)));
            line.push(row.goals());
            line.push(row.waited.map_or(String::new(), |percent| format!("{percent:.0} %")));
            cells.push(line);
        }
        let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        let left = |column: usize| column == 0 || column == widths.len() - 2;
        let mut text = String::new();
        for (number, line) in cells.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let _ = match left(column) {
                    true => write!(text, "| {cell:<width$} "),
                    false => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let _ = write!(text, "|{:-<1$}{2}", "", width + 1, if left(column) { "-" } else { ":" });
                }
                text.push_str("|\n");
            }
        }
        text
    }

    /// How many goals were met, and which were not.
    pub fn summary(&self) -> String {
        let mut met = 0;
        let mut missed = Vec::new();
        for (_, row) in &self.rows {
            for goal in &row.goals {
                match goal.check(row) {
                    Some((_, true)) => met += 1,
                    Some((words, false)) => {
                        // Of a time, the goal tells its ratio to another one.
                        let found = match goal.limit {
                            Limit::Times(..) => row.cell(goal.of),
                            _ => row.number(median(&row.cells[&goal.of])),
                        };
                        missed.push(format!("- {}: {found}, goal {words}\n", row.name));
                    }
                    None => {}
                }
            }
        }
        match missed.len() {
            0 => format!("All {met} goals are met.\n"),
            count => format!("{met} goals are met, {count} missed:\n\n{}", missed.concat()),
        }
    }

    pub fn markdown(&self, machine: &str) -> String {
        format!(
            "# Benchmarks\n\nWritten by `./dev bench`.\n\n![CPU of the servers beside a raw epoll loop](benchmarks.svg)\n\n{}\n{LEGEND}\n{machine}\n{}",
            self.summary(),
            self.table()
        )
    }

    /// The rows that compare CPU times, as points on a logarithmic scale.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 330.0;
        const WIDTH: f64 = 640.0;
        const LINE: f64 = 17.0;
        const TOP: f64 = 86.0;
        let rows: Vec<_> = self.rows.iter().filter(|(_, row)| row.unit == Unit::Cpu).collect();
        let groups = rows.chunk_by(|one, other| one.0 == other.0).count();
        let bottom = TOP + LINE * (rows.len() + groups) as f64 + 6.0;
        let (height, width) = (bottom + 34.0, LEFT + WIDTH + 30.0);
        let values = rows.iter().flat_map(|(_, row)| row.cells.iter().filter(|(kind, _)| **kind != Kind::Raw));
        let most = values.map(|(_, values)| median(values)).fold(10.0, f64::max) * 1.2;
        let least = 0.4;
        let x = |ratio: f64| LEFT + WIDTH * (ratio.clamp(least, most) / least).ln() / (most / least).ln();

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">Server CPU per operation, raw epoll loop = 1</text>\n\
             <text x=\"16\" y=\"44\" fill=\"#555\">medians of the rounds, bars from quartile to quartile; logarithmic, further left \
             is better</text>\n"
        );
        let mut put = |text: std::fmt::Arguments| svg.write_fmt(text).unwrap_or_default();
        let mut at = 16.0;
        for kind in self.columns().into_iter().filter(|kind| colour(*kind).is_some()) {
            put(format_args!("{}", point(kind, at + 5.0, 64.0)));
            put(format_args!("<text x=\"{}\" y=\"68\">{}</text>\n", at + 14.0, header(kind)));
            at += 34.0 + 7.0 * header(kind).len() as f64;
        }
        put(format_args!(
            "<path d=\"M{at} 58v12\" stroke=\"#1a7f37\" stroke-width=\"2\"/><text x=\"{}\" y=\"68\">goal</text>\n",
            at + 7.0
        ));
        for mark in [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0].into_iter().filter(|mark| *mark < most)
        {
            let (colour, x) = (if mark == 1.0 { "#444" } else { "#ddd" }, x(mark));
            put(format_args!("<path d=\"M{x:.1} {}V{bottom}\" stroke=\"{colour}\"/>", TOP - 8.0));
            put(format_args!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>\n", bottom + 16.0));
        }
        let mut y = TOP;
        for group in rows.chunk_by(|one, other| one.0 == other.0) {
            put(format_args!("<text x=\"16\" y=\"{}\" font-weight=\"bold\">{}</text>\n", y + 8.0, group[0].0));
            y += LINE;
            for (_, row) in group {
                put(format_args!("<text x=\"26\" y=\"{}\">{}</text>", y + 4.0, row.name));
                put(format_args!("<path d=\"M{LEFT} {y}h{WIDTH}\" stroke=\"#f2f2f2\"/>\n"));
                for goal in &row.goals {
                    if let (Limit::AtMost(limit), Kind::Network) = (&goal.limit, goal.of) {
                        let x = x(*limit);
                        put(format_args!(
                            "<path d=\"M{x:.1} {}v12\" stroke=\"#1a7f37\" stroke-width=\"2\"/>\n",
                            y - 6.0
                        ));
                    }
                }
                // The first columns on top.
                for (kind, values) in row.cells.iter().rev() {
                    let Some(colour) = colour(*kind) else { continue };
                    let (low, high) = quartiles(values);
                    put(format_args!("<path d=\"M{:.1} {y}H{:.1}\" stroke=\"{colour}\"/>", x(low), x(high)));
                    put(format_args!("{}\n", point(*kind, x(median(values)), y)));
                }
                y += LINE;
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// None for what has no point in the plot.
fn colour(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Raw | Kind::Libc | Kind::InGlib | Kind::Unfair | Kind::Blocking | Kind::Libcurl | Kind::Ftplib => None,
        Kind::Hyper | Kind::HyperUtil | Kind::Libsoup => None,
        Kind::Network => Some("#0550ae"),
        Kind::Fgloop => Some("#54aeff"),
        Kind::Tokio => Some("#d4730b"),
        Kind::PerFd => Some("#8250df"),
        Kind::Gio => Some("#cf222e"),
        Kind::Python => Some("#6e7781"),
    }
}

/// Told apart by shape as well as by colour.
fn point(kind: Kind, x: f64, y: f64) -> String {
    let colour = colour(kind).unwrap_or("black");
    match kind {
        Kind::Network => format!("<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4.5\" fill=\"{colour}\"/>"),
        Kind::Fgloop => {
            format!("<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>")
        }
        Kind::Tokio => format!("<path d=\"M{x:.1} {}l5 9h-10z\" fill=\"{colour}\"/>", y - 5.0),
        Kind::PerFd => format!("<path d=\"M{x:.1} {}l5 5l-5 5l-5 -5z\" fill=\"{colour}\"/>", y - 5.0),
        Kind::Gio => format!("<path d=\"M{:.1} {}h8v8h-8z\" fill=\"{colour}\"/>", x - 4.0, y - 4.0),
        _ => format!("<path d=\"M{:.1} {}l8 8m0 -8l-8 8\" stroke=\"{colour}\" stroke-width=\"2\"/>", x - 4.0, y - 4.0),
    }
}
