//! Line plots as SVG, with the same figures as CSV beside them.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 78.0;
/// Okabe and Ito's palette: told apart by color-blind readers too.
const COLORS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// What can go wrong when a plot is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    #[error("the plot `{title}` has no finite point to draw")]
    Empty { title: String },
    #[error("cannot write `{}`", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// How values of the vertical axis are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scale {
    #[default]
    Linear,
    /// By their logarithm; points that are not above zero are left out.
    Log,
}

impl Scale {
    /// The largest of some values over the least from which a linear axis hides the small ones.
    const WIDE: f64 = 20.0;

    /// By the logarithm where all values are above zero and far apart.
    pub fn fitting(values: impl IntoIterator<Item = f64>) -> Self {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (least, largest) = finite.fold((f64::INFINITY, 0.0_f64), |(least, largest), value| {
            (least.min(value), largest.max(value))
        });
        match least > 0.0 && largest > least * Self::WIDE {
            true => Self::Log,
            false => Self::Linear,
        }
    }

    /// Whether a value has a place.
    fn has(self, value: f64) -> bool {
        value.is_finite() && (self == Self::Linear || value > 0.0)
    }

    /// Where a value lies before it is placed on the page.
    fn of(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        }
    }
}

/// One line of a plot.
#[derive(Debug, Clone, Default)]
pub struct Series {
    pub name: String,
    /// Joined by a line.
    pub points: Vec<(f64, f64)>,
    /// Drawn by themselves.
    pub dots: Vec<(f64, f64)>,
    /// Drawn thin and pale, for what a smoothed line says better.
    pub is_faint: bool,
}

impl Series {
    /// The same with each point the mean of those before it, weighted by `keep` to the power of how
    /// many points ago they are: 0 changes nothing, and the first points are no nearer to zero for
    /// it. Points that are not finite are left out.
    #[must_use]
    pub fn smoothed(&self, name: &str, keep: f64) -> Self {
        let mut sum = 0.0;
        let mut weight = 0.0;
        let finite = self
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite());
        let points = finite.map(|&(x, y)| {
            sum = keep * sum + y;
            weight = keep * weight + 1.0;
            (x, sum / weight)
        });
        Self {
            name: name.into(),
            points: points.collect(),
            ..Self::default()
        }
    }
}

/// A plot of one or more lines over a shared horizontal axis.
///
/// The title states the finding, the caption the command that produced it.
#[derive(Debug, Clone, Default)]
pub struct LinePlot {
    pub title: String,
    pub caption: String,
    pub x_label: String,
    pub y_label: String,
    pub y_scale: Scale,
    pub series: Vec<Series>,
}

impl LinePlot {
    /// Writes the plot to `path` and its figures to the same name with the ending `csv`.
    ///
    /// # Errors
    /// [`PlotError::Empty`] without a finite point, [`PlotError::Io`] naming the file.
    pub fn write(&self, path: &Path) -> Result<(), PlotError> {
        let svg = self.svg()?;
        for (path, text) in [
            (path.to_path_buf(), svg),
            (path.with_extension("csv"), self.csv()),
        ] {
            std::fs::write(&path, text).map_err(|source| PlotError::Io { path, source })?;
        }
        Ok(())
    }

    /// The figures in long form: `series,x,y`.
    pub fn csv(&self) -> String {
        let mut text = String::from("series,x,y\n");
        for series in &self.series {
            let name = if series.name.contains([',', '"', '\n']) {
                format!("\"{}\"", series.name.replace('"', "\"\""))
            } else {
                series.name.clone()
            };
            for (x, y) in series.points.iter().chain(&series.dots) {
                let _ = writeln!(text, "{name},{x},{y}");
            }
        }
        text
    }

    /// The plot as one SVG document. Points that are not finite are left out.
    ///
    /// # Errors
    /// [`PlotError::Empty`] without a finite point.
    pub fn svg(&self) -> Result<String, PlotError> {
        let (x, y) = self.axes().ok_or_else(|| PlotError::Empty {
            title: self.title.clone(),
        })?;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n<title>{0}</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{0}</text>\n",
            escape(&self.title)
        );
        self.draw_grid(&mut svg, &x, &y);
        for (i, series) in self.series.iter().enumerate() {
            draw_series(&mut svg, series, COLORS[i % COLORS.len()], &x, &y);
        }
        self.draw_legend(&mut svg);
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    fn axes(&self) -> Option<(Axis, Axis)> {
        let mut points = self
            .series
            .iter()
            .flat_map(|s| s.points.iter().chain(&s.dots))
            .filter(|(x, y)| x.is_finite() && self.y_scale.has(*y))
            .peekable();
        points.peek()?;
        let mut xs = (f64::MAX, f64::MIN);
        let mut ys = (f64::MAX, f64::MIN);
        for &(x, y) in points {
            xs = (xs.0.min(x), xs.1.max(x));
            ys = (ys.0.min(y), ys.1.max(y));
        }
        Some((
            Axis::over(xs, LEFT, WIDTH - RIGHT, Scale::Linear),
            Axis::over(ys, HEIGHT - BOTTOM, TOP, self.y_scale),
        ))
    }

    fn draw_grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let right = WIDTH - RIGHT;
        let floor = HEIGHT - BOTTOM;
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                y.label(tick)
            );
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor}\" y2=\"{:.1}\" stroke=\"#888\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                floor + 4.0,
                floor + 17.0,
                x.label(tick)
            );
        }
        let middle = (LEFT + right) / 2.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\" stroke=\"#444\"/>\
             <text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\
             <text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"10\" fill=\"#666\">{}</text>",
            floor + 34.0,
            escape(&self.x_label),
            (TOP + floor) / 2.0,
            escape(&self.y_label),
            HEIGHT - 10.0,
            escape(&self.caption)
        );
    }

    fn draw_legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (i, series) in self.series.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"31\" width=\"12\" height=\"4\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"38\">{}</text>",
                x + 16.0,
                escape(&series.name)
            );
            x += 34.0 + 7.0 * series.name.chars().count() as f64;
        }
    }
}

fn draw_series(svg: &mut String, series: &Series, color: &str, x: &Axis, y: &Axis) {
    let mut path = String::new();
    let mut pen_down = false;
    for &(px, py) in &series.points {
        if !px.is_finite() || !y.scale.has(py) {
            pen_down = false;
            continue;
        }
        let _ = write!(
            path,
            "{}{:.1} {:.1} ",
            if pen_down { 'L' } else { 'M' },
            x.place(px),
            y.place(py)
        );
        pen_down = true;
    }
    let pen = match series.is_faint {
        true => "stroke-width=\"1\" stroke-opacity=\"0.35\"",
        false => "stroke-width=\"1.8\"",
    };
    let _ = writeln!(
        svg,
        "<path d=\"{}\" fill=\"none\" stroke=\"{color}\" {pen}/>",
        path.trim_end()
    );
    let dots = series.dots.iter();
    for (px, py) in dots.filter(|(px, py)| px.is_finite() && y.scale.has(*py)) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{color}\"/>",
            x.place(*px),
            y.place(*py)
        );
    }
}

/// A map from values to places on the page, with round ticks.
struct Axis {
    scale: Scale,
    /// Ends, as the scale lays them out.
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over((low, high): (f64, f64), from: f64, to: f64, scale: Scale) -> Self {
        let (mut low, mut high) = (scale.of(low), scale.of(high));
        if high - low < 1e-12 * high.abs().max(1.0) {
            let pad = (0.05 * high.abs()).max(0.5);
            (low, high) = (low - pad, high + pad);
        }
        let rough = (high - low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|s| *s >= rough)
            .unwrap_or(rough);
        Self {
            scale,
            low,
            high,
            step,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = self.scale.of(value);
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Powers of ten with their doubles and fives, or fewer of them over many decades.
    fn log_ticks(&self) -> Vec<f64> {
        let decades = self.high - self.low;
        let (steps, every): (&[f64], usize) = match decades {
            ..2.0 => (&[1.0, 2.0, 5.0], 1),
            2.0..8.0 => (&[1.0], 1),
            _ => (&[1.0], (decades / 6.0).ceil() as usize),
        };
        let powers = (self.low.floor() as i32..=self.high.ceil() as i32).step_by(every);
        let ticks = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        let slack = 1e-9;
        ticks
            .filter(|tick| (self.low - slack..=self.high + slack).contains(&tick.log10()))
            .collect()
    }

    fn ticks(&self) -> Vec<f64> {
        if self.scale == Scale::Log {
            return self.log_ticks();
        }
        let first = (self.low / self.step).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    fn label(&self, tick: f64) -> String {
        if self.scale == Scale::Log {
            // As short as it can be: ticks have one digit that is not zero.
            return match tick {
                1e-4..1e6 => format!("{tick:.*}", (-tick.log10().floor()).max(0.0) as usize),
                _ => format!("{tick:.0e}"),
            };
        }
        let decimals = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        format!("{tick:.decimals$}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> LinePlot {
        LinePlot {
            title: "loss < 1 & falling".into(),
            caption: "marill train".into(),
            x_label: "step".into(),
            y_label: "loss".into(),
            series: vec![Series {
                name: "train".into(),
                points,
                ..Series::default()
            }],
            ..LinePlot::default()
        }
    }

    #[test]
    fn the_line_spans_the_frame_and_text_is_escaped() {
        let svg = plot(vec![(0.0, 2.0), (10.0, 1.0)]).svg().unwrap();
        assert!(svg.contains("d=\"M70.0 48.0 L700.0 342.0\""), "{svg}");
        assert!(svg.contains("loss &lt; 1 &amp; falling"));
    }

    #[test]
    fn a_gap_breaks_the_line_and_no_point_is_an_error() {
        let svg = plot(vec![(0.0, 2.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 1.5)])
            .svg()
            .unwrap();
        assert_eq!(svg.matches("d=\"M").count(), 1);
        assert_eq!(
            svg.split("d=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .matches('M')
                .count(),
            2
        );
        assert!(matches!(
            plot(vec![(0.0, f64::NAN)]).svg(),
            Err(PlotError::Empty { .. })
        ));
    }

    #[test]
    fn a_constant_line_still_has_an_axis() {
        let axis = Axis::over((3.0, 3.0), 0.0, 100.0, Scale::Linear);
        // Exact but for the last bits.
        assert!((axis.place(3.0) - 50.0).abs() < 1e-9);
        assert!(!axis.ticks().is_empty());
    }

    #[test]
    fn values_far_apart_lie_by_their_logarithm() {
        assert_eq!(Scale::fitting([13.0, 0.5]), Scale::Log);
        assert_eq!(Scale::fitting([3.0, 0.5, f64::NAN]), Scale::Linear);
        assert_eq!(
            Scale::fitting([13.0, 0.0]),
            Scale::Linear,
            "zero has no logarithm"
        );
        assert_eq!(Scale::fitting([]), Scale::Linear);
        let log = LinePlot {
            y_scale: Scale::Log,
            ..plot(vec![(0.0, 100.0), (5.0, 10.0), (10.0, 1.0), (11.0, 0.0)])
        };
        let svg = log.svg().unwrap();
        // The middle value is half way up, and zero is left out.
        let line = "d=\"M70.0 48.0 L385.0 195.0 L700.0 342.0\"";
        assert!(svg.contains(line), "{svg}");
        for label in [">1<", ">10<", ">100<"] {
            assert!(svg.contains(label), "{label} in {svg}");
        }
    }

    #[test]
    fn ticks_of_a_logarithm_are_round() {
        let labels = |low: f64, high: f64| -> Vec<String> {
            let axis = Axis::over((low, high), 0.0, 100.0, Scale::Log);
            axis.ticks().iter().map(|&tick| axis.label(tick)).collect()
        };
        assert_eq!(labels(0.05, 13.0)[..3], ["0.1", "1", "10"]);
        assert_eq!(labels(0.5, 13.0), ["0.5", "1", "2", "5", "10"]);
        // Every third power, both ends included.
        assert_eq!(labels(1e-12, 1e6).len(), 7);
    }

    #[test]
    fn smoothing_keeps_a_constant_and_damps_a_jump() {
        let series = |points: &[f64]| Series {
            name: "raw".into(),
            points: points
                .iter()
                .enumerate()
                .map(|(x, &y)| (x as f64, y))
                .collect(),
            ..Series::default()
        };
        let smooth = |points: &[f64], keep| -> Vec<f64> {
            let smoothed = series(points).smoothed("smoothed", keep);
            smoothed.points.iter().map(|point| point.1).collect()
        };
        assert!(
            smooth(&[3.0; 9], 0.9)
                .iter()
                .all(|y| (y - 3.0).abs() < 1e-12)
        );
        assert_eq!(smooth(&[1.0, f64::NAN, 2.0], 0.0), [1.0, 2.0]);
        let damped = smooth(&[0.0, 0.0, 0.0, 9.0], 0.5);
        // 9 of the weights 1, 1/2, 1/4, 1/8.
        assert!((damped[3] - 9.0 / 1.875).abs() < 1e-12);
    }

    #[test]
    fn the_figures_stand_beside_the_plot() {
        assert_eq!(
            plot(vec![(0.0, 2.0), (1.0, 1.5)]).csv(),
            "series,x,y\ntrain,0,2\ntrain,1,1.5\n"
        );
    }
}
