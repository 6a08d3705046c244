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

/// One line of a plot.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    /// Joined by a line.
    pub points: Vec<(f64, f64)>,
    /// Drawn by themselves.
    pub dots: Vec<(f64, f64)>,
}

/// A plot of one or more lines over a shared horizontal axis.
///
/// The title states the finding, the caption the command that produced it.
#[derive(Debug, Clone)]
pub struct LinePlot {
    pub title: String,
    pub caption: String,
    pub x_label: String,
    pub y_label: String,
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
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .peekable();
        points.peek()?;
        let mut xs = (f64::MAX, f64::MIN);
        let mut ys = (f64::MAX, f64::MIN);
        for &(x, y) in points {
            xs = (xs.0.min(x), xs.1.max(x));
            ys = (ys.0.min(y), ys.1.max(y));
        }
        Some((
            Axis::over(xs, LEFT, WIDTH - RIGHT),
            Axis::over(ys, HEIGHT - BOTTOM, TOP),
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
        if !px.is_finite() || !py.is_finite() {
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
    let _ = writeln!(
        svg,
        "<path d=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.8\"/>",
        path.trim_end()
    );
    let dots = series.dots.iter();
    for (px, py) in dots.filter(|(x, y)| x.is_finite() && y.is_finite()) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{color}\"/>",
            x.place(*px),
            y.place(*py)
        );
    }
}

/// A linear map from values to places on the page, with round tick steps.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over((mut low, mut high): (f64, f64), from: f64, to: f64) -> Self {
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
            low,
            high,
            step,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    fn label(&self, tick: f64) -> String {
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
                dots: Vec::new(),
            }],
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
        let axis = Axis::over((3.0, 3.0), 0.0, 100.0);
        // Exact but for the last bits.
        assert!((axis.place(3.0) - 50.0).abs() < 1e-9);
        assert!(!axis.ticks().is_empty());
    }

    #[test]
    fn the_figures_stand_beside_the_plot() {
        assert_eq!(
            plot(vec![(0.0, 2.0), (1.0, 1.5)]).csv(),
            "series,x,y\ntrain,0,2\ntrain,1,1.5\n"
        );
    }
}
