//! Runs a recipe without the command line: `cargo run -p marill-training --example train -- RECIPE [KEY=VALUE ...]`.

use marill_recipe::Recipe;
use marill_training::{TrainOptions, train};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let resume = arguments.iter().position(|a| a == "--resume").map(|at| arguments.remove(at)).is_some();
    let (path, overrides) = arguments.split_first().ok_or("name a recipe")?;
    let path = Path::new(path);
    let recipe = Recipe::read(path, overrides)?;
    let recipe_dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let options = TrainOptions { recipe_dir, resume, stop: None };
    let report = train(&recipe, &options, &mut |p| {
        let value = p.val_loss.map(|v| format!(" val {v:.4}")).unwrap_or_default();
        eprintln!(
            "{}/{} loss {:.4}{value} lr {:.2e} norm {:.2} {:.0} tokens/s",
            p.step, p.steps, p.loss, p.learning_rate, p.grad_norm, p.tokens_per_second
        );
    })?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
