//! The shipped recipe files.

use std::fs;

use neva_recipes::RECIPES;
use neva_run::{
    config::{self, Origin, Source},
    load, resolve,
};
use neva_schemas::{RecipeArgs, Run};

use crate::recipe_file;

#[test]
fn a_recipe_file_resolves_to_the_result_of_its_function() {
    for recipe in RECIPES {
        let args = RecipeArgs {
            name: recipe.name.to_owned(),
            ..(recipe.default_args)()
        };
        let expect = Run::new(recipe.name, args.clone(), (recipe.finetune)(args));
        let resolved = resolve(load(&recipe_file(&format!("{}.yaml", recipe.name))).unwrap(), &[""; 0]).unwrap();
        assert_eq!(resolved.run, expect);
        let warnings: Vec<_> = resolved.warnings.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(warnings, Vec::from_iter(recipe.notice), "{}", recipe.name);
    }
}

#[test]
fn a_recipe_resolves_by_name_to_its_defaults() {
    for recipe in RECIPES {
        let args = (recipe.default_args)();
        let expect = Run::new(recipe.name, args.clone(), (recipe.finetune)(args));
        assert_eq!(resolve(load(recipe.name).unwrap(), &[""; 0]).unwrap().run, expect);
    }
}

/// Removing the comment signs gives a valid run.
#[test]
fn the_commented_section_of_a_recipe_file_resolves() {
    for recipe in RECIPES {
        let text = fs::read_to_string(recipe_file(&format!("{}.yaml", recipe.name))).unwrap();
        let (above, example) = text.split_once("# finetune:").unwrap();
        let text = format!("{above}finetune:{}", example.replace("\n# ", "\n"));
        let node = config::parse(&Source::new("example", text)).unwrap();
        let run = resolve(node, &["num_gpus_per_node=2"])
            .unwrap_or_else(|error| panic!("{}", config::render(&error, false)))
            .run;
        assert_ne!(
            run.finetune.data,
            (recipe.finetune)((recipe.default_args)()).data,
            "{}",
            recipe.name
        );
    }
}

#[test]
fn show_prints_a_recipe_file_of_the_same_run() {
    for (recipe, sets) in [
        ("llava15_7b", vec!["peft_scheme=none", "name=\"1.0\""]),
        (
            "llava15_7b",
            vec!["finetune.peft.target_modules+=[\"*.x\"]", "finetune.optim.lr=3e-5"],
        ),
        (
            "neva_tiny",
            vec!["dir=/runs", "finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json}"],
        ),
        (
            "neva_tiny",
            vec![
                "nemo_compat=true",
                "finetune.trainer|={max_steps: null, max_epochs: 2, max_time: 1h30m}",
                "finetune.trainer.callbacks=[nl.EarlyStopping, {_target_: \"a::B\", c: {_target_: D}}]",
                "finetune.optim={_target_: optim.Lion, param_groups: [{params: [\"*\"]}], lr_scheduler: {_target_: WSD, decay_steps: 1}}",
                "finetune.log.mlflow={tracking_uri: \"http://host\", tags: {\"12:30:00\": \"12:30:00\"}}",
            ],
        ),
    ] {
        let run = resolve(load(recipe).unwrap(), &sets).unwrap().run;
        let yaml = config::to_yaml_string(&config::to_node(&run, Origin::recipe(recipe)).unwrap());
        let again = resolve(config::parse(&Source::new("shown", yaml)).unwrap(), &[""; 0]).unwrap();
        assert_eq!(again.run, run, "{recipe} {sets:?}");
    }
}
