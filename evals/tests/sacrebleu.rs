//! BLEU and chrF equal the real sacrebleu package's; the fixture's script stands beside it.

use marill_evals::metrics::{bleu, chrf};

#[derive(serde::Deserialize)]
struct Fixture {
    corpora: Vec<Corpus>,
}

#[derive(serde::Deserialize)]
struct Corpus {
    hypotheses: Vec<String>,
    references: Vec<String>,
    bleu: f64,
    chrf: f64,
}

#[test]
fn scores_equal_sacrebleu() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/sacrebleu.json")).unwrap();
    // The reference script writes at least nine; less is a damaged file.
    assert!(fixture.corpora.len() >= 9);
    for corpus in &fixture.corpora {
        let pairs = || {
            corpus
                .hypotheses
                .iter()
                .map(String::as_str)
                .zip(corpus.references.iter().map(String::as_str))
        };
        let bleu = bleu(pairs());
        let chrf = chrf(pairs());
        // The same formula: exact but for the last bits.
        assert!(
            (bleu - corpus.bleu).abs() < 1e-9,
            "{:?}: BLEU {bleu}, sacrebleu {}",
            corpus.hypotheses,
            corpus.bleu
        );
        // As above.
        assert!(
            (chrf - corpus.chrf).abs() < 1e-9,
            "{:?}: chrF {chrf}, sacrebleu {}",
            corpus.hypotheses,
            corpus.chrf
        );
    }
}
