//! The report as one self-contained page: figures and plots as inline SVG, without scripts or
//! external resources.

use std::fmt::Write as _;

use crate::choices::Accuracy;
use crate::report::{ConfidenceReport, Report};
use crate::routing::RoutingReport;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1f26;background:#fff}\
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}table{border-collapse:collapse;width:100%}\
td,th{padding:.25rem .6rem;border-bottom:1px solid #e3e5ea;text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.quiet{color:#667}figure{display:inline-block;margin:0 1.5rem 1rem 0;vertical-align:top}figcaption{font-size:.85rem;color:#667}\
svg{display:block}svg text{font:11px system-ui,sans-serif;fill:#556}\
@media(prefers-color-scheme:dark){body{background:#14161a;color:#dde}td,th{border-color:#2c3038}svg text{fill:#99a}.quiet,figcaption{color:#99a}}";
const BLUE: &str = "#3b6fd4";
const GREY: &str = "#9aa1ad";

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Renders the page.
pub fn html_report(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Nyx: {0} cases</title><style>{STYLE}</style><h1>Nyx on the {0} cases</h1>",
        escaped(&report.split)
    );
    let limit = report
        .limit
        .map_or_else(String::new, |limit| format!(", {limit} questions of a suite at most"));
    let (at, seed, model) =
        (report.at.format("%Y-%m-%d %H:%M UTC"), report.seed, escaped(&report.base_model));
    let _ = write!(
        out,
        "<p class=\"quiet\">{at}, Nyx {}, {model}, seed {seed}{limit}, {:.0} s</p>",
        report.nyx, report.seconds
    );
    accuracies(report, &mut out);
    recall(report, &mut out);
    forecasts(report, &mut out);
    if let Some(routing) = &report.routing {
        confusion(routing, &mut out);
    }
    if let Some(confidence) = &report.confidence {
        out.push_str("<h2>Confidence</h2>");
        diagram("all choice suites", confidence, &mut out);
        for (name, suite) in &report.suites {
            suite.confidence.iter().for_each(|confidence| diagram(name, confidence, &mut out));
        }
    }
    out.push_str("<h2>Parts</h2><table><tr><th>part<th>id<th>from</tr>");
    let _ = write!(
        out,
        "<tr><td>base model<td><code>{}</code><td>{model}</tr>",
        escaped(&report.base_sha256)
    );
    for (name, part) in &report.artifacts {
        let _ = write!(
            out,
            "<tr><td>{}<td><code>{}</code><td>{}</tr>",
            escaped(name),
            escaped(&part.id),
            escaped(&part.origin)
        );
    }
    for (name, id) in &report.adapters {
        let _ = write!(
            out,
            "<tr><td>adapter of {}<td><code>{}</code><td></tr>",
            escaped(name),
            escaped(id)
        );
    }
    out.push_str("</table></html>\n");
    out
}

/// Bar chart of accuracies with intervals, and a mark at chance level.
fn accuracies(report: &Report, out: &mut String) {
    let mut rows: Vec<(String, Accuracy, Option<f64>)> = Vec::new();
    for (name, suite) in &report.suites {
        rows.extend(
            suite
                .choices
                .iter()
                .map(|choices| (name.clone(), choices.accuracy, Some(choices.chance))),
        );
        if let Some(fairness) = &suite.fairness {
            rows.push((format!("{name}, ambiguous"), fairness.ambig, None));
            rows.push((format!("{name}, disambiguated"), fairness.disambig, None));
        }
    }
    if rows.is_empty() {
        return;
    }
    out.push_str("<h2>Right choices</h2><figure>");
    let (left, width, step) = (170.0, 500.0, 26.0);
    let height = step * rows.len() as f64 + 24.0;
    let x = |share: f64| left + width * share;
    let _ = write!(
        out,
        "<svg width=\"{0}\" height=\"{height}\" viewBox=\"0 0 {0} {height}\" role=\"img\" aria-label=\"accuracy of each suite\">",
        left + width + 60.0
    );
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, bottom) = (x(tick), height - 20.0);
        let _ = write!(
            out,
            "<line x1=\"{at}\" x2=\"{at}\" y1=\"0\" y2=\"{bottom}\" stroke=\"{GREY}\" stroke-opacity=\".3\"/><text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            height - 6.0
        );
    }
    for (row, (name, accuracy, chance)) in rows.iter().enumerate() {
        accuracy_bar(out, step * row as f64 + 4.0, (left, width), name, *accuracy, *chance);
    }
    out.push_str("</svg><figcaption>black: 95 % interval; red: chance</figcaption></figure>");
    for (name, fairness) in
        report.suites.iter().filter_map(|(name, suite)| Some((name, suite.fairness.as_ref()?)))
    {
        let bias = fairness.bias;
        let _ = write!(
            out,
            "<p>{}: bias {:+.3} on ambiguous contexts, {:+.3} on disambiguated ones (0 is none, 1 always the stereotype).</p>",
            escaped(name),
            bias.ambig,
            bias.disambig
        );
    }
}

/// One bar with its interval, and a mark at chance level.
fn accuracy_bar(
    out: &mut String,
    top: f64,
    (left, width): (f64, f64),
    name: &str,
    accuracy: Accuracy,
    chance: Option<f64>,
) {
    let x = |share: f64| left + width * share;
    let (middle, [low, high]) = (top + 8.0, accuracy.interval);
    let _ = write!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        left - 8.0,
        top + 12.0,
        escaped(name)
    );
    let _ = write!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{:.1}\" height=\"16\" fill=\"{BLUE}\"/>",
        width * accuracy.accuracy
    );
    let _ = write!(
        out,
        "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"currentColor\" stroke-width=\"1.5\"/>",
        x(low),
        x(high)
    );
    if let Some(chance) = chance {
        let _ = write!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{1}\" stroke=\"#d4573b\" stroke-width=\"2\"/>",
            x(chance),
            top + 16.0
        );
    }
    let _ = write!(
        out,
        "<text x=\"{}\" y=\"{}\">{:.3}</text>",
        left + width + 8.0,
        top + 12.0,
        accuracy.accuracy
    );
}

/// A table of retrieval metrics.
fn recall(report: &Report, out: &mut String) {
    let mut rows = String::new();
    for (name, suite) in &report.suites {
        let name = escaped(name);
        if let Some(recall) = &suite.recall {
            let mut row = |what: &str, value: f64| {
                let _ = write!(rows, "<tr><td>{name}: {what}<td class=\"n\">{value:.3}</tr>");
            };
            row("evidence among the first 5", recall.recall_at_5);
            row("evidence among the first 10", recall.recall_at_10);
            row("mean reciprocal rank", recall.mrr);
            recall.f1.iter().for_each(|f1| row("token F1 of the answers", *f1));
        }
        if let Some(facts) = &suite.facts {
            let mut row = |what: &str, value: f64| {
                let _ = write!(rows, "<tr><td>{name}: {what}<td class=\"n\">{value:.3}</tr>");
            };
            row("right table first", facts.table_at_1);
            row("right table shown", facts.table_shown);
        }
    }
    if !rows.is_empty() {
        let _ = write!(out, "<h2>Retrieval</h2><table>{rows}</table>");
    }
}

fn forecasts(report: &Report, out: &mut String) {
    for forecast in report.suites.values().filter_map(|suite| suite.forecast.as_ref()) {
        out.push_str("<h2>Forecasts</h2><table><tr><th>forecast<th class=\"n\">Brier score<th class=\"n\">log score</tr>");
        let mut row = |who: &str, brier: f64, log: Option<f64>| {
            let log = log.map_or_else(String::new, |log| format!("{log:.4}"));
            let _ =
                write!(out, "<tr><td>{who}<td class=\"n\">{brier:.4}<td class=\"n\">{log}</tr>");
        };
        row("Moira, with the market's prior", forecast.brier, Some(forecast.log_score));
        row("the market", forecast.market_brier, Some(forecast.market_log_score));
        row(
            "Moira, without the prior",
            forecast.without_prior.brier,
            Some(forecast.without_prior.log_score),
        );
        forecast
            .without_prior
            .base_rate_brier
            .iter()
            .for_each(|brier| row("the base rate", *brier, None));
        out.push_str("</table>");
        for (what, mean) in [
            ("the market", &forecast.over_market),
            ("the base rate, without the prior", &forecast.without_prior.over_base_rate),
        ] {
            if let Some(mean) = mean {
                let [low, high] = mean.interval;
                let _ = write!(
                    out,
                    "<p>Moira's Brier score less that of {what}: {:+.4}, 95 % interval [{low:+.4}, {high:+.4}].</p>",
                    mean.mean
                );
            }
        }
    }
}

/// The confusion matrix of routing.
fn confusion(routing: &RoutingReport, out: &mut String) {
    let _ = write!(
        out,
        "<h2>Routing</h2><p>Right for {:.3} of {} requests; {:.3} by the base model's scores alone.</p><table><tr><th>request for",
        routing.accuracy.accuracy, routing.accuracy.count, routing.by_scores
    );
    let names: Vec<&String> = routing.confusion.keys().collect();
    for name in &names {
        let _ = write!(out, "<th class=\"n\">{}", escaped(name));
    }
    out.push_str("<th class=\"n\">right</tr>");
    for (name, row) in &routing.confusion {
        let _ = write!(out, "<tr><td>{}", escaped(name));
        let total: usize = row.values().sum();
        for chosen in &names {
            let count = row.get(*chosen).copied().unwrap_or(0);
            let strength = count as f64 / total.max(1) as f64;
            let _ = write!(
                out,
                "<td class=\"n\" style=\"background:rgba(59,111,212,{:.2})\">{count}",
                strength * 0.6
            );
        }
        let right = row.get(name).copied().unwrap_or(0) as f64 / total.max(1) as f64;
        let _ = write!(out, "<td class=\"n\">{right:.3}</tr>");
    }
    out.push_str("</table>");
}

/// A reliability diagram: one point per bin, whose area is proportional to the number of answers.
fn diagram(name: &str, confidence: &ConfidenceReport, out: &mut String) {
    let (size, pad) = (220.0, 30.0);
    let (x, y) = (|p: f64| pad + size * p, |p: f64| 10.0 + size * (1.0 - p));
    let _ = write!(
        out,
        "<figure><svg width=\"{0}\" height=\"{0}\" viewBox=\"0 0 {0} {0}\" role=\"img\" aria-label=\"reliability of {1}\">",
        size + pad + 15.0,
        escaped(name)
    );
    let _ = write!(
        out,
        "<rect x=\"{pad}\" y=\"10\" width=\"{size}\" height=\"{size}\" fill=\"none\" stroke=\"{GREY}\"/><line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{GREY}\" stroke-dasharray=\"4\"/>",
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0)
    );
    for tick in [0.0, 0.5, 1.0] {
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{tick}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{tick}</text>",
            x(tick),
            size + 24.0,
            pad - 4.0,
            y(tick) + 4.0
        );
    }
    for bin in &confidence.bins {
        if let (Some(mean), Some(rate)) = (bin.mean, bin.rate) {
            let radius = 2.0 + 14.0 * (bin.count as f64 / confidence.count.max(1) as f64).sqrt();
            let _ = write!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" fill=\"{BLUE}\" fill-opacity=\".7\"><title>{} answers: confidence {mean:.2}, right {rate:.2}</title></circle>",
                x(mean),
                y(rate),
                bin.count
            );
        }
    }
    let auroc = confidence.auroc.map_or_else(String::new, |auroc| format!(", AUROC {auroc:.2}"));
    let _ = write!(
        out,
        "</svg><figcaption>{}: ECE {:.3}{auroc}, {} answers<br>x: confidence, y: accuracy</figcaption></figure>",
        escaped(name),
        confidence.ece,
        confidence.count
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::tests::answered;
    use crate::choices::{ChoiceReport, FairnessReport};
    use crate::report::SuiteReport;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_page_holds_its_figures_and_fetches_nothing() {
        let answers = [
            answered([0.8, 0.1, 0.1], 0, "ambig", "neg", Some(0.75)),
            answered([0.1, 0.8, 0.1], 2, "disambig", "neg", Some(0.25)),
        ];
        let suite = SuiteReport {
            choices: Some(ChoiceReport::of(&answers)),
            fairness: Some(FairnessReport::of(&answers, &BTreeSet::from(["unknown".to_owned()]))),
            confidence: ConfidenceReport::of(&answers),
            ..SuiteReport::default()
        };
        let report = Report {
            nyx: "1.0",
            at: chrono::Utc::now(),
            split: "<dev>".into(),
            seed: 1,
            limit: None,
            base_model: "tiny".into(),
            base_sha256: "b".repeat(64),
            adapters: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            confidence: suite.confidence.clone(),
            suites: BTreeMap::from([("eleos".to_owned(), suite)]),
            routing: None,
            seconds: 1.0,
        };
        let page = html_report(&report);
        assert!(page.contains("&lt;dev&gt;") && !page.contains("<dev>"));
        assert!(
            page.contains("eleos, ambiguous")
                && page.contains(">0.500<")
                && page.contains("<circle")
        );
        // both answers were calibrated to 0.25
        assert!(page.contains("ECE 0.250"), "{page}");
        for from_elsewhere in ["http://", "https://", "<script", "url("] {
            assert!(!page.contains(from_elsewhere), "{from_elsewhere}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["suites"]["eleos"]["accuracy"], 0.5);
        assert_eq!(json["suites"]["eleos"]["bias"]["ambig"], 0.0);
        assert_eq!(json["confidence"]["auroc"], 1.0);
        assert!(
            report.lines().iter().any(|line| line.starts_with("eleos: accuracy 0.500")),
            "{:?}",
            report.lines()
        );
    }
}
