//! Keys and values of axolotl, TRL, transformers' `Trainer`, PEFT and torchtune: what they are
//! here, or why they are not offered.

/// Their keys, and ours in their place.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("r_lora", "lora.rank"),
    ("lora_model_dir", "lora.init_from"),
    ("adapter_name_or_path", "lora.init_from"),
    ("peft_use_rslora", "lora.rslora"),
    ("lora_target_linear", "lora.target_modules"),
    ("peft_layers_to_transform", "freeze.layers"),
    ("layers_to_transform", "freeze.layers"),
    ("base_model_config", "model.base_model"),
    ("model_id", "model.base_model"),
    ("model_revision", "model.revision"),
    ("revision_of_model", "model.revision"),
    ("tokenizer_path", "model.base_model"),
    ("model_max_length", "data.max_seq_len"),
    ("cutoff_len", "data.max_seq_len"),
    ("max_prompt_length", "data.max_seq_len"),
    ("test_size", "data.val_fraction"),
    ("validation_split", "data.val_fraction"),
    ("val_size", "data.val_fraction"),
    ("test_datasets", "dataset.val_path"),
    ("eval_dataset", "dataset.val_path"),
    ("validation_file", "dataset.val_path"),
    ("train_file", "dataset.path"),
    ("dataset_name", "dataset.path"),
    ("data_files", "dataset.path"),
    ("dataset_path", "dataset.path"),
    ("pretraining_dataset", "dataset.path"),
    ("dataset_text_field", "dataset.template"),
    ("field_instruction", "dataset.template"),
    ("field_input", "dataset.template"),
    ("field_output", "dataset.completion"),
    ("system_prompt", "dataset.system"),
    ("max_samples", "dataset.limit"),
    ("max_train_samples", "dataset.limit"),
    ("assistant_only_loss", "data.train_on"),
    ("completion_only_loss", "data.train_on_input"),
    ("train_on_prompt", "data.train_on_input"),
    ("roles_to_train", "data.train_on"),
    ("train_on_eos", "data.train_on"),
    ("per_gpu_train_batch_size", "train.micro_batch_size"),
    ("train_batch_size", "train.micro_batch_size"),
    ("max_norm", "train.max_grad_norm"),
    ("clip_grad_norm", "train.max_grad_norm"),
    ("random_seed", "train.seed"),
    ("data_seed", "train.seed"),
    ("max_steps_per_epoch", "train.max_steps"),
    ("checkpoint_every", "train.checkpoint_steps"),
    ("activation_checkpointing", "train.gradient_checkpointing"),
    (
        "enable_activation_checkpointing",
        "train.gradient_checkpointing",
    ),
    ("gradient_checkpointing", "train.gradient_checkpointing"),
    ("adam_beta1", "optimizer.beta1"),
    ("adam_beta2", "optimizer.beta2"),
    ("optim", "optimizer.kind"),
    ("optimizer_name", "optimizer.kind"),
    ("evals_per_epoch", "eval.every_steps"),
    ("eval_every", "eval.every_steps"),
    ("run_eval_every_n_steps", "eval.every_steps"),
    ("kd_temperature", "distill.temperature"),
    ("kd_alpha", "distill.weight"),
    ("teacher_model_name_or_path", "distill.teacher"),
    ("teacher", "distill.teacher"),
];

/// Their keys that say what happens anyway, or what nothing here depends on.
pub(super) const NOT_NEEDED: &[(&str, &str)] = &[
    ("model_type", "the checkpoint's `config.json` says it"),
    ("tokenizer_type", "the checkpoint's own tokenizer is read"),
    ("trust_remote_code", "no code of a checkpoint is run"),
    (
        "is_llama_derived_model",
        "the checkpoint's `config.json` says it",
    ),
    (
        "chat_template",
        "the checkpoint's own chat template is used",
    ),
    ("logging_steps", "every step is in `metrics.jsonl`"),
    ("logging_strategy", "every step is in `metrics.jsonl`"),
    (
        "logging_dir",
        "figures are in the run's folder, `output.dir`",
    ),
    ("run_name", "a run's name is its folder's, `output.dir`"),
    (
        "overwrite_output_dir",
        "a run writes over its own earlier files",
    ),
    (
        "resume_from_checkpoint",
        "`marill train --resume` goes on from the newest checkpoint",
    ),
    (
        "auto_resume_from_checkpoints",
        "`marill train --resume` goes on from the newest checkpoint",
    ),
    (
        "save_strategy",
        "checkpoints come every `train.checkpoint_steps`",
    ),
    ("save_safetensors", "tensors are always safetensors"),
    (
        "eval_strategy",
        "`eval.every_steps` says when the validation loss is measured",
    ),
    (
        "evaluation_strategy",
        "`eval.every_steps` says when the validation loss is measured",
    ),
    ("do_train", "`marill train` trains, `marill eval` scores"),
    ("do_eval", "`marill train` trains, `marill eval` scores"),
    (
        "group_by_length",
        "rows are always laid one after another without padding",
    ),
    (
        "length_column_name",
        "rows are always laid one after another without padding",
    ),
    (
        "padding_free",
        "rows are always laid one after another without padding",
    ),
    (
        "eval_sample_packing",
        "rows are always laid one after another without padding",
    ),
    (
        "remove_unused_columns",
        "columns that nothing names are not read",
    ),
    ("dataloader_num_workers", "rows are in memory"),
    ("dataset_prepared_path", "rows are read again by every run"),
    ("dataset_processes", "rows are read by one thread"),
    (
        "special_tokens",
        "the checkpoint's own special tokens are used",
    ),
    ("device_map", "one machine's memory holds the model"),
    ("deepspeed", "a run is one process on one machine"),
    ("fsdp", "a run is one process on one machine"),
    ("fsdp_config", "a run is one process on one machine"),
    ("ddp", "a run is one process on one machine"),
    ("local_rank", "a run is one process on one machine"),
    ("flash_attention", "attention has one kernel here"),
    ("flash_attn", "attention has one kernel here"),
    ("xformers_attention", "attention has one kernel here"),
    ("sdp_attention", "attention has one kernel here"),
    ("attn_implementation", "attention has one kernel here"),
    ("torch_compile", "there is no graph to compile"),
    ("tf32", "training runs in 32-bit floats"),
    ("bfloat16", "training runs in 32-bit floats"),
    ("float16", "training runs in 32-bit floats"),
    ("torch_dtype", "training runs in 32-bit floats"),
    ("dtype", "training runs in 32-bit floats"),
    ("strict", "unknown keys are always refused"),
    ("peft_type", "`[lora]` is LoRA"),
    ("task_type", "models are decoders that write text"),
];

const OBJECTIVE: &str = "answers are learned as they stand (supervised fine-tuning), or from a \
                         teacher with `[distill]`; train the objective elsewhere, and \
                         `marill export PEFT_DIR --base BASE` serves its adapter";
const TRACKER: &str = "no tracker is called from a run: its figures are files in `output.dir`, \
                       `metrics.jsonl` with a JSON object a step, event \
                       files of TensorBoard and `loss.svg`";
const ADAPTER: &str = "private updates are LoRA's two factors and a scale, because everything else \
                       changes the secure program";
const QUANTIZED: &str = "weights are 32-bit floats while they are trained; a GGUF base is \
                         dequantized when it is read";
const HUB: &str = "nothing is uploaded, since a run holds the private adapter; `public/` of its \
                   export may be published by hand";

/// Their keys that ask for something that is not offered, and why or what instead.
pub(super) const NOT_OFFERED: &[(&str, &str)] = &[
    ("rl", OBJECTIVE),
    ("rl_beta", OBJECTIVE),
    ("dpo_beta", OBJECTIVE),
    ("dpo", OBJECTIVE),
    ("simpo_gamma", OBJECTIVE),
    ("cpo_alpha", OBJECTIVE),
    ("kto_desirable_weight", OBJECTIVE),
    ("kto_undesirable_weight", OBJECTIVE),
    ("orpo_alpha", OBJECTIVE),
    ("reward_model", OBJECTIVE),
    ("process_reward_model", OBJECTIVE),
    ("reward_funcs", OBJECTIVE),
    ("num_generations", OBJECTIVE),
    ("trl", OBJECTIVE),
    ("objective", OBJECTIVE),
    ("report_to", TRACKER),
    ("use_wandb", TRACKER),
    ("wandb", TRACKER),
    ("wandb_project", TRACKER),
    ("wandb_entity", TRACKER),
    ("wandb_run_id", TRACKER),
    ("wandb_name", TRACKER),
    ("wandb_watch", TRACKER),
    ("wandb_log_model", TRACKER),
    ("mlflow", TRACKER),
    ("mlflow_tracking_uri", TRACKER),
    ("mlflow_experiment_name", TRACKER),
    ("use_mlflow", TRACKER),
    ("use_comet", TRACKER),
    ("comet_api_key", TRACKER),
    ("comet_project_name", TRACKER),
    ("trackio_project_name", TRACKER),
    ("swanlab_project", TRACKER),
    ("use_swanlab", TRACKER),
    ("neptune_project", TRACKER),
    ("metric_logger", TRACKER),
    ("use_dora", ADAPTER),
    ("peft_use_dora", ADAPTER),
    ("lora_bias", ADAPTER),
    ("bias", ADAPTER),
    ("peft_init_lora_weights", ADAPTER),
    ("loraplus_lr_ratio", ADAPTER),
    ("relora_steps", ADAPTER),
    ("lora_on_cpu", ADAPTER),
    ("lora_fan_in_fan_out", ADAPTER),
    ("qlora", QUANTIZED),
    ("bnb_4bit_quant_type", QUANTIZED),
    ("bnb_4bit_compute_dtype", QUANTIZED),
    ("bnb_config_kwargs", QUANTIZED),
    ("gptq", QUANTIZED),
    ("quantization_config", QUANTIZED),
    ("push_to_hub", HUB),
    ("hub_model_id", HUB),
    ("hub_strategy", HUB),
    ("push_dataset_to_hub", HUB),
    (
        "neftune_noise_alpha",
        "no noise is added to embeddings, which the client computes in clear",
    ),
    (
        "label_smoothing_factor",
        "answers are learned without smoothing of labels",
    ),
    (
        "shuffle_merged_datasets",
        "rows are always shuffled, by `train.seed`",
    ),
    (
        "unfrozen_parameters_regex",
        "what is trained is whole layers behind `freeze.layers`",
    ),
    ("lr_groups", "one learning rate serves every trained tensor"),
    (
        "embedding_lr",
        "one learning rate serves every trained tensor",
    ),
    (
        "model_parallel",
        "a run is one process; a larger model can be trained elsewhere, and \
         `marill export PEFT_DIR --base BASE` serves its adapter",
    ),
];

/// Their values, by our key, with ours in their place.
pub(super) const VALUES: &[(&str, &str, &str)] = &[
    ("optimizer.kind", "adamw_torch", "adamw"),
    ("optimizer.kind", "adamw_torch_fused", "adamw"),
    ("optimizer.kind", "adamw_hf", "adamw"),
    ("optimizer.kind", "adamw_apex_fused", "adamw"),
    ("optimizer.kind", "torch.optim.adamw", "adamw"),
    ("optimizer.lr_scheduler", "constant_with_warmup", "constant"),
    ("dataset.format", "chat_template", "chat"),
    ("dataset.format", "chatml", "chat"),
    ("dataset.format", "openai", "chat"),
    ("dataset.format", "messages", "chat"),
    ("dataset.format", "conversation", "chat"),
    ("dataset.format", "alpaca_chat", "alpaca"),
    ("dataset.format", "alpaca:chat", "alpaca"),
    ("dataset.format", "instruction", "instruct"),
    ("dataset.format", "prompt_completion", "instruct"),
    ("dataset.format", "completion", "text"),
    ("dataset.format", "pretrain", "text"),
    ("dataset.format", "classification", "classify"),
    ("dataset.format", "translation", "translate"),
    ("train.gradient_checkpointing", "true", "always"),
    ("train.gradient_checkpointing", "false", "never"),
    ("train.gradient_checkpointing", "unsloth", "always"),
];

const STATES: &str = "AdamW with moments in 32-bit floats is the one optimizer, so that a resumed \
                      run gives the same bits";

/// Their values that are not offered, by our key: how each begins, and what there is.
pub(super) const VALUES_NOT_OFFERED: &[(&str, &str, &str)] = &[
    ("optimizer.kind", "adamw_8bit", STATES),
    ("optimizer.kind", "adamw_bnb", STATES),
    ("optimizer.kind", "adamw_torch_8bit", STATES),
    ("optimizer.kind", "adamw_torch_4bit", STATES),
    ("optimizer.kind", "paged_", STATES),
    ("optimizer.kind", "adafactor", STATES),
    ("optimizer.kind", "ademamix", STATES),
    ("optimizer.kind", "adalomo", STATES),
    ("optimizer.kind", "adam_mini", STATES),
    ("optimizer.kind", "adagrad", STATES),
    ("optimizer.kind", "galore", STATES),
    ("optimizer.kind", "lion", STATES),
    ("optimizer.kind", "lomo", STATES),
    ("optimizer.kind", "muon", STATES),
    ("optimizer.kind", "came", STATES),
    ("optimizer.kind", "rmsprop", STATES),
    ("optimizer.kind", "schedule_free", STATES),
    ("optimizer.kind", "sgd", STATES),
    ("optimizer.kind", "shampoo", STATES),
    ("optimizer.kind", "soap", STATES),
    ("optimizer.kind", "sophia", STATES),
    ("dataset.format", "dpo", OBJECTIVE),
    ("dataset.format", "ipo", OBJECTIVE),
    ("dataset.format", "kto", OBJECTIVE),
    ("dataset.format", "orpo", OBJECTIVE),
    ("dataset.format", "grpo", OBJECTIVE),
    ("dataset.format", "ppo", OBJECTIVE),
    ("dataset.format", "preference", OBJECTIVE),
    ("dataset.format", "bradley_terry", OBJECTIVE),
    ("dataset.format", "chat_template.default", OBJECTIVE),
    ("dataset.format", "chatml.intel", OBJECTIVE),
    ("dataset.format", "reward", OBJECTIVE),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{about::keys, hints::FOREIGN};

    #[test]
    fn answers_name_keys_and_values_that_exist() {
        let keys = keys();
        let find = |path: &str| keys.iter().find(|key| key.path == path);
        for (theirs, ours) in KEYS.iter().chain(FOREIGN) {
            assert!(find(ours).is_some(), "`{theirs}` is answered with `{ours}`");
        }
        for (path, theirs, ours) in VALUES {
            let key = find(path).unwrap_or_else(|| panic!("`{path}`"));
            assert!(
                key.takes.contains(&format!("`\"{ours}\"`")),
                "`{theirs}` is answered with `{ours}`"
            );
        }
        for (path, ..) in VALUES_NOT_OFFERED {
            assert!(find(path).is_some(), "`{path}`");
        }
    }
}
