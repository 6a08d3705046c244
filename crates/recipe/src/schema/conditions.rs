//! Conditions between the keys of a recipe.

use marill_numeric::SoftmaxForm;

use crate::{
    Dataset, Distill, FINE_TUNED, Format, Grouping, Heads, KeepLogits, Lora, LoraInit, Method,
    Optimizer, Problem, Recipe, RecipeError, Schedule, Stage, Style,
};

/// Takes message and hint of a mistake.
type Add<'a> = dyn FnMut(&str, &str) + 'a;

/// Conditions between keys.
pub(super) fn cross_check(recipe: &Recipe, name: &str) -> Result<(), RecipeError> {
    let mut problems = Vec::new();
    let mut add = |message: &str, hint: &str| {
        problems.push(Problem {
            message: format!("{name}: {message}"),
            hint: Some(hint.into()),
            place: None,
        });
    };
    check_model(recipe, &mut add);
    if let Some(lora) = &recipe.lora {
        check_lora(lora, &mut add);
    }
    if let Some(heads) = &recipe.heads {
        check_heads(heads, &mut add);
        check_heads_beside(recipe, heads, &mut add);
    }
    check_approximations(recipe, &mut add);
    for dataset in &recipe.dataset {
        check_dataset(dataset, &mut add);
        check_held_out(dataset, recipe.data.val_fraction, &mut add);
    }
    if recipe
        .eval
        .as_ref()
        .is_some_and(|eval| eval.target_path.is_some() && eval.path.is_none())
    {
        add(
            "`eval.target_path` is the other side of `eval.path`, which is missing",
            "name both files",
        );
    }
    if let Some(distill) = &recipe.distill {
        check_distill(distill, &mut add);
    }
    check_training(recipe, &mut add);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(RecipeError::Problems(problems))
    }
}

/// Conditions between the keys of one data set.
pub(super) fn check_one(dataset: &Dataset) -> Result<(), RecipeError> {
    let mut problems = Vec::new();
    let mut add = |message: &str, hint: &str| {
        problems.push(Problem {
            message: message.into(),
            hint: Some(hint.into()),
            place: None,
        });
    };
    check_dataset(dataset, &mut add);
    match problems.is_empty() {
        true => Ok(()),
        false => Err(RecipeError::Problems(problems)),
    }
}

fn check_model(recipe: &Recipe, add: &mut Add<'_>) {
    let random = recipe.model.init == crate::Init::Random;
    if !random && recipe.model.base_model.is_none() {
        add(
            "`model.base_model` is missing",
            "name a checkpoint folder or a `.gguf` file, or set `init = \"random\"`",
        );
    }
    if random && (recipe.model.architecture.is_none() || recipe.tokenizer.is_none()) {
        add(
            "`init = \"random\"` needs `[model.architecture]` and `[tokenizer]`",
            "see `recipes/base.toml`",
        );
    }
    if random && (recipe.lora.is_some() || recipe.freeze.layers > 0) {
        add(
            "`init = \"random\"` leaves nothing to freeze",
            "drop `[lora]` and `[freeze]`, or name a base model",
        );
    }
    if random && (recipe.model.base_model.is_some() || recipe.model.revision.is_some()) {
        add(
            "`init = \"random\"` starts from no model",
            "drop `model.base_model` and `model.revision`",
        );
    }
    if !random && (recipe.model.architecture.is_some() || recipe.tokenizer.is_some()) {
        add(
            "`[model.architecture]` and `[tokenizer]` belong to `init = \"random\"`",
            "a base model has its own; drop the tables",
        );
    }
}

fn check_training(recipe: &Recipe, add: &mut Add<'_>) {
    let train = &recipe.train;
    let optimizer = &recipe.optimizer;
    if optimizer.warmup_steps.is_some()
        && optimizer.warmup_ratio != Optimizer::default().warmup_ratio
    {
        add(
            "`optimizer.warmup_steps` and `optimizer.warmup_ratio` exclude each other",
            "the steps are a number, the ratio a share of all of them; keep one",
        );
    }
    if optimizer.min_lr_ratio > 0.0 && optimizer.lr_scheduler == Schedule::Constant {
        add(
            "`optimizer.min_lr_ratio` does nothing with `optimizer.lr_scheduler = \"constant\"`",
            "a constant rate does not come down; leave it out",
        );
    }
    if train.early_stopping_threshold.is_some() && train.early_stopping_patience.is_none() {
        add(
            "`train.early_stopping_threshold` does nothing without \
             `train.early_stopping_patience`",
            "say how many measurements may bring nothing",
        );
    }
    check_measured(recipe, add);
}

/// What compares validation losses has some to compare, of the whole run.
fn check_measured(recipe: &Recipe, add: &mut Add<'_>) {
    let train = &recipe.train;
    let measured = [
        (
            "early_stopping_patience",
            train.early_stopping_patience.is_some(),
        ),
        ("keep_best", train.keep_best),
    ];
    // Validation says nothing of a part of the run that is still to come.
    let parts = [
        ("train.quantize_last_steps", train.quantize_last_steps > 0),
        (
            "heads.progressive",
            recipe
                .heads
                .as_ref()
                .is_some_and(|heads| heads.progressive > 0.0),
        ),
        (
            "distill.stages",
            recipe
                .distill
                .as_ref()
                .is_some_and(|distill| distill.stages.len() > 1),
        ),
    ];
    for (key, _) in measured.into_iter().filter(|(_, asked)| *asked) {
        for (part, _) in parts.into_iter().filter(|(_, there)| *there) {
            add(
                &format!("`train.{key}` may leave a run of before what `{part}` asks for"),
                "drop one of them",
            );
        }
        let own_rows = recipe
            .dataset
            .iter()
            .any(|dataset| dataset.val_path.is_some());
        if recipe.data.val_fraction == 0.0 && !own_rows {
            add(
                &format!("`train.{key}` needs a validation loss, and no row is held out"),
                "`data.val_fraction = 0.05` holds a twentieth out, `dataset.val_path` names rows \
                 of their own",
            );
        }
        if recipe
            .eval
            .as_ref()
            .and_then(|eval| eval.every_steps)
            .is_none()
        {
            add(
                &format!("`train.{key}` needs more than one validation loss"),
                "`eval.every_steps` says how often it is measured",
            );
        }
    }
}

fn check_approximations(recipe: &Recipe, add: &mut Add<'_>) {
    let approx = &recipe.approx;
    if let Err((key, reason)) = approx.check() {
        add(
            &format!("`{key}` {reason}"),
            "set `approx.softmax = \"clipped\"`, or leave the bound out",
        );
    }
    if recipe.model.init == crate::Init::Random && !approx.is_none() {
        add(
            "`[approx]` is for private layers, and `init = \"random\"` has none",
            "the checkpoint of such a run could not say so; drop `[approx]`",
        );
    }
    let stochastic = recipe.export.rounding.as_deref() == Some("stochastic");
    if approx.softmax == Some(SoftmaxForm::Quad) && stochastic {
        add(
            "`approx.softmax = \"2quad\"` needs `export.rounding = \"exact\"`",
            "padding stays out of its sums only there; use `exact`, or another softmax",
        );
    }
}

fn check_lora(lora: &Lora, add: &mut Add<'_>) {
    if lora.target_modules.is_empty() {
        add(
            "`lora.target_modules` is empty, so nothing would be trained",
            "leave it out for all linear maps",
        );
    }
    if let Some(twice) = repeated(&lora.target_modules) {
        add(
            &format!("`lora.target_modules` has `{twice}` twice"),
            "name each once",
        );
    }
    if lora.init == LoraInit::Random && lora.init_rows != LoraInit::ROWS {
        add(
            "`lora.init_rows` does nothing without `lora.init = \"data\"`",
            "leave it out, or let the rows decide the factors",
        );
    }
    if lora.init == LoraInit::Data && lora.init_from.is_some() {
        add(
            "`lora.init = \"data\"` and `lora.init_from` both say what the factors begin with",
            "drop one of them",
        );
    }
    for module in lora.ranks.keys() {
        if !lora.target_modules.contains(module) {
            add(
                &format!("`lora.ranks.{module}` is of no module in `lora.target_modules`"),
                "name the module there too, or drop its rank",
            );
        }
    }
}

/// What `[heads]` cannot go together with.
fn check_heads_beside(recipe: &Recipe, heads: &Heads, add: &mut Add<'_>) {
    if recipe.model.init == crate::Init::Random && heads.is_measured() {
        add(
            "`[heads]` measures a base model, and `init = \"random\"` has none",
            "use `grouping = \"strided\"` without `fit_scales` and `keep`",
        );
    }
    if recipe.approx.softmax.is_some() && heads.is_measured() {
        add(
            "`[heads]` measures with the exact softmax, and `approx.softmax` has another",
            "use `grouping = \"strided\"` without `fit_scales` and `keep`",
        );
    }
    if recipe.train.quantize_last_steps > 0 && heads.method == Method::Prune {
        add(
            "`train.quantize_last_steps` rounds as a program with all heads does",
            "leave it out with `heads.method = \"prune\"`",
        );
    }
}

fn check_heads(heads: &Heads, add: &mut Add<'_>) {
    let prunes = heads.method == Method::Prune;
    if prunes && heads.grouping != Grouping::Measured {
        add(
            "`heads.method = \"prune\"` leaves the heads that matter most, which is measured",
            "write `grouping = \"measured\"`",
        );
    }
    let of_groups = [
        ("fit_scales", heads.fit_scales),
        ("progressive", heads.progressive > 0.0),
        ("allow_kv_collapse", heads.allow_kv_collapse),
    ];
    for (key, _) in of_groups.into_iter().filter(|(_, set)| prunes && *set) {
        add(
            &format!("`heads.{key}` is about groups, and `method = \"prune\"` has none"),
            "leave it out",
        );
    }
    if heads.fit_scales && heads.scale.is_some() {
        add(
            "`heads.scale` says what `heads.fit_scales` measures",
            "leave one out",
        );
    }
    if heads.keep > 0 && !heads.keep_layers.is_empty() {
        add(
            "`heads.keep` measures which layers stay whole, and `heads.keep_layers` names them",
            "leave one out",
        );
    }
    if let Some(twice) = repeated(&heads.keep_layers) {
        add(
            &format!("`heads.keep_layers` has {twice} twice"),
            "name each once",
        );
    }
    let whole = heads.keep > 0 || !heads.keep_layers.is_empty();
    let says_how = prunes || heads.fit_scales || whole || heads.progressive > 0.0;
    if heads.merge == 1 && says_how {
        add(
            "`heads.merge = 1` changes no head, and other keys say how",
            "drop `[heads]`, or merge more heads",
        );
    }
    if !heads.is_measured() && heads.has_calibration_rows() {
        add(
            "`heads.calibration_rows` is about what is measured, and nothing is",
            "leave it out, or write `grouping = \"measured\"`",
        );
    }
}

fn check_dataset(dataset: &Dataset, add: &mut Add<'_>) {
    for key in without_use(dataset) {
        let format = format!("{:?}", dataset.format).to_lowercase();
        add(
            &format!("`dataset.{key}` does nothing in a data set of format `{format}`"),
            "leave it out",
        );
    }
    if dataset.format == Format::Classify && dataset.labels.len() < 2 {
        add(
            "a `classify` data set needs at least two `labels`",
            "labels = [\"negative\", \"positive\"]",
        );
    }
    for (key, names) in [
        ("labels", &dataset.labels),
        ("label_codes", &dataset.label_codes),
    ] {
        if let Some(reason) = confusing(names) {
            add(
                &format!("`dataset.{key}` {reason}"),
                "an answer or a row must tell the labels apart",
            );
        }
    }
    check_label_codes(dataset, add);
    if dataset.format == Format::Text && !dataset.exclude.is_empty() {
        add(
            "`dataset.exclude` compares prompts, and a `text` data set has none",
            "drop `exclude`",
        );
    }
}

/// Rows that measure the loss are said in one way.
fn check_held_out(dataset: &Dataset, val_fraction: f64, add: &mut Add<'_>) {
    if dataset.val_path.is_some() && val_fraction > 0.0 {
        add(
            "`dataset.val_path` and `data.val_fraction` both say which rows measure the loss",
            "drop one of them",
        );
    }
    if dataset.val_path.is_none() && dataset.val_target_path.is_some() {
        add(
            "`dataset.val_target_path` is the other side of `dataset.val_path`, which is missing",
            "name both files",
        );
    }
    let aligned = dataset.target_path.is_some();
    if dataset.val_path.is_some() && aligned != dataset.val_target_path.is_some() {
        add(
            "`dataset.path` and `dataset.val_path` are not written alike: one has another side, \
             the other has not",
            "give both a `target_path`, or neither",
        );
    }
}

fn check_label_codes(dataset: &Dataset, add: &mut Add<'_>) {
    let same = |a: &String, b: &String| a.trim().eq_ignore_ascii_case(b.trim());
    let named = |(nth, code): (usize, &String)| {
        dataset
            .labels
            .iter()
            .enumerate()
            .any(|(other, label)| other != nth && same(label, code))
            .then(|| code.clone())
    };
    if let Some(code) = dataset.label_codes.iter().enumerate().find_map(named) {
        add(
            &format!("`dataset.label_codes` has `{code}`, which is the name of another label"),
            "a row that says it could mean either",
        );
    }
    if !dataset.label_codes.is_empty() && dataset.label_codes.len() != dataset.labels.len() {
        let codes = dataset.label_codes.len();
        let labels = dataset.labels.len();
        add(
            &format!("`dataset.label_codes` has {codes} codes for {labels} labels"),
            "one code for each label, in the same order",
        );
    }
}

fn check_distill(distill: &Distill, add: &mut Add<'_>) {
    let share: f64 = distill.stages().iter().map(|stage| stage.share).sum();
    if (share - 1.0).abs() > 1e-6 {
        add(
            &format!("the shares of `distill.stages` are {share} together"),
            "they are parts of 1: 0.3 and 0.7",
        );
    }
    if distill
        .stages()
        .iter()
        .any(|s| s.share == 0.0 || !s.runs_through() && s.outputs == 0.0)
    {
        add(
            "a stage of `distill.stages` has no share or no weight",
            "give it `outputs`, `hidden`, `relations`, `logits` or `labels`",
        );
    }
    let asks = |of: fn(&Stage) -> f64| distill.stages().iter().any(|stage| of(stage) > 0.0);
    if distill.kept_tokens.is_some() && distill.keep_logits == KeepLogits::All {
        add(
            "`distill.kept_tokens` needs `distill.keep_logits`",
            "`keep_logits = \"top-k\"` or `\"sampled\"`",
        );
    }
    if distill.fine_tune.is_some() && distill.teacher != FINE_TUNED {
        add(
            "`distill.fine_tune` is for a teacher that is trained first",
            "`teacher = \"fine-tune\"`",
        );
    }
    let related_alone = |s: &Stage| s.relations > 0.0 && s.hidden + s.head() == 0.0;
    if distill.stages().iter().any(related_alone) {
        add(
            "a stage of `relations` alone leaves the last layer's other maps untrained",
            "give it `hidden`, `logits` or `labels` too",
        );
    }
    if distill.keep_logits != KeepLogits::All && !asks(|stage| stage.logits) {
        add(
            "`distill.keep_logits` keeps logits that no stage asks for",
            "give a stage `logits`",
        );
    }
    if distill.relation_heads.is_some() && !asks(|stage| stage.relations) {
        add(
            "`distill.relation_heads` is for `relations`, which no stage asks for",
            "give a stage `relations`",
        );
    }
    if distill.weight.is_some() && !distill.stages.is_empty() {
        add(
            "`distill.weight` and `distill.stages` say the same thing twice",
            "drop `weight`",
        );
    }
}

/// Keys of a data set that its format has no use for.
fn without_use(dataset: &Dataset) -> Vec<&'static str> {
    let classify = dataset.format == Format::Classify;
    let chat = dataset.format == Format::Chat;
    let text = dataset.format == Format::Text;
    let plain = dataset.style == Style::Plain;
    let written = [
        (
            "target_path",
            dataset.target_path.is_some(),
            classify || chat || text,
        ),
        (
            "val_target_path",
            dataset.val_target_path.is_some(),
            classify || chat || text,
        ),
        ("style", plain, chat),
        ("system", dataset.system.is_some(), chat || text || plain),
        ("template", dataset.template.is_some(), chat),
        (
            "completion",
            dataset.completion.is_some(),
            classify || chat || text,
        ),
        ("label", dataset.label.is_some(), !classify),
        ("labels", !dataset.labels.is_empty(), !classify),
        ("label_codes", !dataset.label_codes.is_empty(), !classify),
    ];
    written
        .into_iter()
        .filter(|(_, written, useless)| *written && *useless)
        .map(|(key, ..)| key)
        .collect()
}

fn repeated<T: PartialEq>(names: &[T]) -> Option<&T> {
    names
        .iter()
        .enumerate()
        .find(|(nth, name)| names[..*nth].contains(name))
        .map(|(_, name)| name)
}

/// Why labels or their codes cannot be told apart; capitals and white space around them do not
/// count in rows.
fn confusing(names: &[String]) -> Option<String> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if name.trim().is_empty() {
            return Some("has an empty name".into());
        }
        if name.trim().contains(['\n', '\r']) {
            return Some(format!(
                "has a line break in `{}`, and an answer is one line",
                name.trim().escape_debug()
            ));
        }
        if !seen.insert(name.trim().to_ascii_lowercase()) {
            return Some(format!("has `{}` twice", name.trim()));
        }
    }
    None
}
