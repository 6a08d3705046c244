//! Keys and values of other tools are answered with ours, or with the reason why there are none.

use crate::{GOOD, problems};

/// A line at the top of a recipe, and what is said of it.
const AT_THE_TOP: &[(&str, &str)] = &[
    ("num_train_epochs = 3", "here it is `train.epochs`"),
    (
        "per_device_train_batch_size = 8",
        "here it is `train.micro_batch_size`",
    ),
    (
        "gradient_accumulation_steps = 4",
        "here it is `train.gradient_accumulation_steps`",
    ),
    (
        "learning_rate = 1e-4",
        "here it is `optimizer.learning_rate`",
    ),
    (
        "lr_scheduler_type = \"cosine\"",
        "here it is `optimizer.lr_scheduler`",
    ),
    ("optim = \"adamw_torch\"", "here it is `optimizer.kind`"),
    ("val_set_size = 0.05", "here it is `data.val_fraction`"),
    ("test_datasets = []", "here it is `dataset.val_path`"),
    ("datasets = []", "here it is `dataset`"),
    ("sequence_len = 2048", "here it is `data.max_seq_len`"),
    ("max_length = 2048", "here it is `data.max_seq_len`"),
    ("base_model = \"x\"", "here it is `model.base_model`"),
    ("lora_r = 8", "here it is `lora.rank`"),
    ("lora_model_dir = \"x\"", "here it is `lora.init_from`"),
    (
        "gradient_checkpointing = true",
        "here it is `train.gradient_checkpointing`",
    ),
    ("output_dir = \"x\"", "here it is `output.dir`"),
    ("bf16 = true", "not needed: training runs in 32-bit floats"),
    ("sample_packing = true", "not needed: rows are always laid"),
    (
        "flash_attention = true",
        "not needed: attention has one kernel",
    ),
    (
        "trust_remote_code = true",
        "not needed: no code of a checkpoint is run",
    ),
    ("resume_from_checkpoint = \"x\"", "`marill train --resume`"),
    (
        "rl = \"dpo\"",
        "not offered: answers are learned as they stand",
    ),
    ("dpo_beta = 0.1", "not offered: answers are learned"),
    ("reward_funcs = [\"f\"]", "not offered: answers are learned"),
    ("report_to = \"wandb\"", "not offered: no tracker is called"),
    ("wandb_project = \"x\"", "not offered: no tracker is called"),
    (
        "mlflow_tracking_uri = \"x\"",
        "not offered: no tracker is called",
    ),
    ("push_to_hub = true", "not offered: nothing is uploaded"),
    ("use_dora = true", "not offered: private updates are LoRA"),
    ("neftune_noise_alpha = 5", "not offered: no noise"),
    (
        "Learning-Rate = 1e-4",
        "here it is `optimizer.learning_rate`",
    ),
];

#[test]
fn keys_of_other_tools_are_answered() {
    for (line, said) in AT_THE_TOP {
        let all = problems(&format!("{line}\n{GOOD}"), &[]);
        assert!(
            all.len() == 1 && all[0].contains("unknown key") && all[0].contains(said),
            "{line}: {all:#?}"
        );
    }
}

#[test]
fn values_of_other_tools_are_answered() {
    for (set, said) in [
        ("optimizer.kind=adamw_torch_fused", "here it is `adamw`"),
        (
            "optimizer.kind=adamw_8bit",
            "not offered: AdamW with moments in 32-bit floats",
        ),
        ("optimizer.kind=paged_adamw_32bit", "not offered: AdamW"),
        ("optimizer.kind=muon", "not offered: AdamW"),
        ("optimizer.kind=adamww", "did you mean `adamw`?"),
        (
            "optimizer.lr_scheduler=constant_with_warmup",
            "here it is `constant`",
        ),
        ("dataset.0.format=chat_template", "here it is `chat`"),
        ("dataset.0.format=kto", "not offered: answers are learned"),
        ("train.gradient_checkpointing=true", "here it is `always`"),
    ] {
        let all = problems(GOOD, &[set]);
        assert!(all[0].contains(said), "{set}: {all:#?}");
    }
}

#[test]
fn texts_in_place_of_tables_are_answered() {
    for (line, said) in [
        ("optimizer = \"adamw_bnb_8bit\"", "not offered: AdamW"),
        ("optimizer = \"adamw\"", "`kind = \"adamw\"` in it"),
        ("eval = \"steps\"", "`eval` takes a table"),
    ] {
        let all = problems(&format!("{line}\n{GOOD}"), &[]);
        assert!(all[0].contains(said), "{line}: {all:#?}");
    }
}

#[test]
fn rows_that_measure_the_loss_are_said_once() {
    for (set, said) in [
        (
            &["dataset.0.val_path=v.jsonl", "data.val_fraction=0.1"][..],
            "both say which rows",
        ),
        (
            &["dataset.0.val_target_path=v.de"],
            "`dataset.val_path`, which is missing",
        ),
        (&["dataset.0.val_path="], "`dataset.val_path` is empty"),
    ] {
        let all = problems(GOOD, set);
        assert!(
            all.iter().any(|problem| problem.contains(said)),
            "{set:?}: {all:#?}"
        );
    }
}
