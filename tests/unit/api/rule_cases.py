"""For each rule at least one spec that trips it, and one next to it that just does not.

(rule, levels it takes, regularizers it objects to, regularizers it accepts, what both specs say besides). Where the regularizers are the
same in both, the sixth column says what the accepted spec says besides.
"""

from __future__ import annotations

Case = tuple[str, str, str, str, str] | tuple[str, str, str, str, str, str]

PLAIN = "{}"
REGRESSION = "{task: {type: regression}}"
RIDGE = "{task: {type: regression}, engine: {sklearn: {estimator: ridge}}}"
CNN = "{torch: {architecture: {cnn: {image: [1, 8, 8]}}}}"
BIG_CNN = "{torch: {architecture: {cnn: {image: [1, 28, 28]}}}}"
HELD_BACK = "{data: {split: {calibration: 0.1}}}"
GATED = "{data: {split: {calibration: 0.1}}, evaluation: {gates: [{metric: calibrationErrorExcess, max: 0.02}]}}"
SHALLOW = "{torch: {architecture: {mlp: {hidden: [64, 64, 64, 64], residual: true}}}}"
DEEP = "{torch: {architecture: {mlp: {hidden: [64, 64, 64, 64, 64], residual: true}}}}"
WARM = "{torch: {epochs: 100, schedule: {cosine: {warmup: 0.2}}}}"
SGD = "{torch: {optimizer: {sgd: {}}}}"
TWO = "{training: {nodes: 2}, torch: {batchSize: 32}}"
TWO_OF_RIDGE = "{engine: {sklearn: {estimator: ridge}}, task: {type: regression}, training: {nodes: 2}}"
SEARCHED = "search: {parallelism: 2, space: {regularizers.l2.strength: {choice: [1]}}}"
FAST = "{evaluation: {gates: [{metric: latencyP95Seconds, max: 0.01}]}}"
ACCURATE = "{evaluation: {gates: [{metric: accuracy, min: 0.9}]}}"
IDS = "preprocessing: {tokens: {vocabulary: 9, length: 4}}"
TOKENS = f"{{data: {{{IDS}}}, torch: {{architecture: {{tokenTransformer: {{}}}}}}}}"
SVC = "{engine: {sklearn: {estimator: svc}}}"
XGBOOST = "{engine: {xgboost: {params: {max_depth: 3}}}}"

PRIVACY: list[Case] = [
    ("R1", "automatic", "{privacy: {}, normalization: {kind: batch}}", "{privacy: {}, normalization: {kind: group}}", PLAIN),
    ("R2", "automatic", "{privacy: {}, l2: {}}", "{l2: {}}", PLAIN),
    ("R2", "automatic", "{privacy: {}, ewc: {}}", "{privacy: {}, dropout: {}}", PLAIN),
    ("R2", "automatic", "{privacy: {}, spectralNorm: {}}", "{privacy: {}, spectralNorm: {mode: bound}}", PLAIN),
    ("R2", "error", "{privacy: {}, sparsityPrior: {}}", "{sparsityPrior: {}}", PLAIN),
    ("R2", "automatic", "{privacy: {}, functional: {kind: l2sp}}", "{privacy: {}, functional: {kind: kl}}", PLAIN),
    ("R3", "error", "{privacy: {}, fairness: {column: g}}", "{privacy: {}}", PLAIN),
    ("R3", "error", "{privacy: {}, calibrationLoss: {kind: mmce}}", "{privacy: {}, calibrationLoss: {kind: brier}}", PLAIN),
    ("R3", "error", "{privacy: {}, latent: {kind: varianceCovariance}}", "{privacy: {}, latent: {kind: activationL2}}", PLAIN),
    ("R4", "error", "{privacy: {}, spectralNorm: {mode: bound}}", "{privacy: {}, spectralNorm: {mode: penalty}}", PLAIN),
    ("R4", "error", "{privacy: {}, reparameterization: {kind: weightNorm}}", "{reparameterization: {kind: weightNorm}}", PLAIN),
    ("R4", "error", "{privacy: {}, l1: {method: hadamard}}", "{privacy: {}, l1: {}}", PLAIN),
    ("R4", "error", "{privacy: {}, dropConnect: {}}", "{privacy: {}, dropout: {}}", PLAIN),
    ("R4", "error", "{privacy: {}, quantization: {mode: qat}}", "{privacy: {}, quantization: {mode: static}}", PLAIN),
    ("R5", "automatic", "{privacy: {}, distillation: {teacher: big}}", "{distillation: {teacher: big}}", PLAIN),
    ("R5", "warning", "{privacy: {}, classRebalancing: {}}", "{privacy: {}, labelSmoothing: {}}", PLAIN),
    ("R5", "warning", "{privacy: {}, earlyStopping: {}}", "{earlyStopping: {}}", PLAIN),
    (
        "R5", "warning", "{privacy: {}}", "{privacy: {}}",
        "{search: {space: {regularizers.privacy.maxGradNorm: {uniform: {min: 0.5, max: 2}}}}}", PLAIN,
    ),
    ("R6", "warning", "{privacy: {}, gradientClipping: {}}", "{gradientClipping: {}}", PLAIN),
    ("R37", "automatic", "{privacy: {}}", "{l2: {}}", PLAIN),
    ("R37", "automatic error", "{privacy: {}}", "{l2: {}}", "{data: {labelColumnNoiseAudit: true}}"),
    ("R37", "automatic error", "{privacy: {}}", "{l2: {}}", "{data: {preprocessing: {scaling: minMax}}}"),
    ("R37", "automatic error", "{privacy: {}}", "{l2: {}}", "{training: {tracking: {evidently: {}}}}"),
    ("R37", "automatic error", "{privacy: {}}", "{l2: {}}", "{data: {preprocessing: {categories: {columns: [c]}}}}"),
]  # fmt: skip

PENALTIES: list[Case] = [
    ("R7", "error", "{l2: {}, weightDecay: {}}", "{l2: {}}", PLAIN),
    ("R7", "error", "{elasticNet: {}, weightDecay: {}}", "{elasticNet: {}}", PLAIN),
    (
        "R7", "error", "{l2: {target: {include: [head.*]}}, weightDecay: {target: {include: [head.*, body.*]}}}",
        "{l2: {target: {include: [head.*]}}, weightDecay: {target: {include: [body.*]}}}", PLAIN,
    ),
    ("R8", "automatic", "{l1: {}}", "{l1: {}}", PLAIN, SGD),
    ("R8", "automatic", "{elasticNet: {}}", "{elasticNet: {l1Ratio: 0}}", PLAIN),
    ("R8", "automatic", "{structuredSparsity: {}}", "{structuredSparsity: {}}", "{torch: {optimizer: {adam: {}}}}", SGD),
    ("R8", "error", "{structuredSparsity: {}}", "{l2: {}}", RIDGE),
    ("R14", "warning", "{dropout: {}, normalization: {kind: batch}}", "{dropout: {}, normalization: {kind: layer}}", PLAIN),
    ("R15", "warning", "{normalization: {kind: batch}}", "{normalization: {kind: group}}", "{torch: {batchSize: 15}}"),
    ("R15", "warning", "{normalization: {kind: batch}}", "{normalization: {kind: batch}}",
     "{torch: {batchSize: 15}}", "{torch: {batchSize: 16}}"),
    ("R15", "error", "{normalization: {kind: batch}}", "{normalization: {kind: batch}}", TWO, PLAIN),
    ("R18", "warning", "{spectralNorm: {mode: bound}, normalization: {kind: batch}}",
     "{spectralNorm: {mode: penalty}, normalization: {kind: batch}}", PLAIN),
    ("R18", "warning", "{spectralNorm: {mode: bound}, weightDecay: {}}", "{spectralNorm: {mode: bound}}", PLAIN),
    ("R19", "warning", "{l2: {}, normalization: {kind: batch}}", "{l2: {}, normalization: {kind: none}}", PLAIN),
    ("R26", "automatic", "{weightAveraging: {}, normalization: {kind: batch}}",
     "{weightAveraging: {}, normalization: {kind: layer}}", PLAIN),
    ("R26", "automatic", "{modelSoup: {candidates: [a, b]}, normalization: {kind: batch}}", "{modelSoup: {candidates: [a, b]}}", PLAIN),
    ("R35", "warning", "{dropout: {p: 0.5}, weightDecay: {strength: 0.5}, l1: {}, pruning: {sparsity: 0.9}}",
     "{dropout: {p: 0.5}, weightDecay: {strength: 0.5}, l1: {}, pruning: {sparsity: 0.8}}", PLAIN),
]  # fmt: skip

OBJECTIVES: list[Case] = [
    ("R9", "warning", "{labelSmoothing: {}, batchMixing: {}}", "{labelSmoothing: {}}", PLAIN),
    ("R10", "warning", "{labelSmoothing: {}, distillation: {teacher: big}}", "{distillation: {teacher: big}}", PLAIN),
    ("R11", "warning", "{labelSmoothing: {}}", "{labelSmoothing: {}, calibration: {}}", HELD_BACK),
    ("R11", "error", "{labelSmoothing: {}}", "{labelSmoothing: {}, calibration: {}}", GATED),
    ("R11", "warning", "{earlyStopping: {patience: 3}}", "{earlyStopping: {patience: 4}}", PLAIN),
    ("R12", "error", '{labelSmoothing: {}, safety: {dataset: "s3://safe/"}}',
     '{labelSmoothing: {}, safety: {dataset: "s3://safe/", excludeFromSmoothing: true}}', PLAIN),
    ("R13", "error", "{labelSmoothing: {}, robustLoss: {}}", "{robustLoss: {}}", PLAIN),
    ("R13", "error", "{labelSmoothing: {}}", "{l2: {}}", REGRESSION),
    ("R29", "warning", "{adversarial: {}, batchMixing: {}}", "{adversarial: {}}", PLAIN),
    ("R29", "warning", "{adversarial: {}}", "{adversarial: {}}", "{torch: {precision: fp16}}", "{torch: {precision: bf16}}"),
    ("R29", "error", "{adversarial: {epsilon: 8}}", "{adversarial: {epsilon: 0.3}}", PLAIN),
    ("R29", "error", "{adversarial: {epsilon: 1.1}}", "{adversarial: {epsilon: 0.3}}", "{data: {preprocessing: {scaling: minMax}}}"),
    ("R29", "error", "{adversarial: {epsilon: 8}}", "{adversarial: {epsilon: 8}}", PLAIN, "{data: {preprocessing: {scaling: none}}}"),
    ("R30", "warning", "{classRebalancing: {priorCorrection: false}}", "{classRebalancing: {}}", PLAIN),
    ("R30", "error", "{classRebalancing: {method: oversample}, sampleWeighting: {column: w}}",
     "{classRebalancing: {method: inverse}, sampleWeighting: {column: w}}", PLAIN),
    ("R31", "automatic", "{sampleWeighting: {column: w}}", "{sampleWeighting: {column: w}}", TWO, PLAIN),
    ("R31", "automatic", "{classRebalancing: {method: inverse}}", "{classRebalancing: {}}", TWO),
    ("R36", "warning", "{fairness: {column: g}}", "{fairness: {column: g}}", "{torch: {batchSize: 15}}", "{torch: {batchSize: 16}}"),
    ("R36", "warning", "{calibrationLoss: {kind: mmce}}", "{calibrationLoss: {kind: brier}}", "{torch: {batchSize: 7}}"),
    ("R39", "error", "{calibration: {}}", "{l2: {}}", REGRESSION),
    ("R40", "error", "{l2: {}}", "{l2: {}}", TWO_OF_RIDGE, RIDGE),
    ("R40", "error", "{l2: {}}", "{l2: {}}", f"{{training: {{processesPerNode: 2}}, {SEARCHED}}}", f"{{{SEARCHED}}}"),
    ("R40", "error", "{adversarial: {}}", "{dropout: {}, fairness: {column: g}, ensemble: {}}", TWO),
    ("R40", "error", "{quantization: {mode: qat}}", "{quantization: {mode: static}}", TWO),
    ("R39", "error", "{l2: {}}", "{l2: {}}", "{task: {type: regression}, data: {labelColumnNoiseAudit: true}}",
     "{data: {labelColumnNoiseAudit: true}}"),
    ("R39", "error", "{robustLoss: {kind: gce}}", "{robustLoss: {kind: huber}}", REGRESSION),
    ("R42", "error", "{dropConnect: {schedule: {kind: linear, to: 11.5}}}", "{dropConnect: {schedule: {kind: linear, to: 8}}}", PLAIN),
    ("R42", "error", "{dropout: {p: 0.5, schedule: {kind: cosine, from: 3}}}", "{dropout: {p: 0.5, schedule: {to: 1.8, from: 3}}}", PLAIN),
    ("R42", "error", "{adversarial: {mix: 0.5, schedule: {to: 3}}}", "{adversarial: {attack: trades, mix: 0.5, schedule: {to: 3}}}", PLAIN),
]  # fmt: skip

COMPRESSION: list[Case] = [
    ("R16", "automatic", "{pruning: {}, reparameterization: {}}", "{pruning: {}}", PLAIN),
    ("R16", "automatic", "{structuredPruning: {}, spectralNorm: {mode: bound}}", "{structuredPruning: {}, spectralNorm: {}}", PLAIN),
    ("R17", "warning", "{spectralNorm: {mode: bound}, quantization: {}}", "{spectralNorm: {}, quantization: {}}", PLAIN),
    ("R20", "error", "{pruning: {sparsity: 0.5, fineTuneEpochs: 0}}", "{pruning: {sparsity: 0.49, fineTuneEpochs: 0}}", PLAIN),
    ("R20", "error", '{pruning: {sparsity: 0.1, pattern: "2:4", fineTuneEpochs: 0}}', '{pruning: {pattern: "2:4"}}', PLAIN),
    ("R20", "error", "{structuredPruning: {ratio: 0.5, fineTuneEpochs: 0}}", "{structuredPruning: {ratio: 0.5}}", PLAIN),
    ("R21", "warning", "{pruning: {}}", "{pruning: {}}", FAST, ACCURATE),
    ("R21", "warning", "{pruning: {}}", "{structuredPruning: {}}", FAST),
    ("R22", "error", "{quantization: {bits: 3}}", "{quantization: {bits: 4}}", PLAIN),
    ("R22", "error", "{quantization: {bits: 2}}", "{quantization: {bits: 2, mode: qat}}", PLAIN),
    ("R23", "error", "{pruning: {fineTuneEpochs: 29}, quantization: {mode: qat}}",
     "{pruning: {fineTuneEpochs: 30}, quantization: {mode: qat}}", PLAIN),
    ("R23", "automatic", "{quantization: {mode: qat}, weightAveraging: {}}", "{quantization: {}, weightAveraging: {}}", PLAIN),
    ("R23", "automatic error", "{quantization: {mode: qat, startEpoch: 0.8}, weightAveraging: {kind: swa}}",
     "{quantization: {mode: qat, startEpoch: 0.8}}", PLAIN),
]  # fmt: skip

PROCESS: list[Case] = [
    ("R24", "error", "{mcDropout: {}}", "{dropout: {}}", PLAIN),
    ("R24", "error", "{mcDropout: {}, dropout: {p: 0}}", "{dropout: {p: 0}}", PLAIN),
    ("R24", "automatic", "{mcDropout: {}, dropout: {p: 0.2}}", "{dropout: {p: 0.2}}", PLAIN),
    ("R25", "error", "{stochasticDepth: {}}", "{stochasticDepth: {}}", SHALLOW, DEEP),
    ("R27", "automatic", "{modelSoup: {candidates: [a, b]}}", "{ensemble: {}}", PLAIN),
    ("R27", "automatic error", "{modelSoup: {candidates: [a, b, a]}}", "{ensemble: {}}", PLAIN),
    ("R28", "error", "{earlyStopping: {patience: 19}}", "{earlyStopping: {patience: 20}}", WARM),
    ("R28", "warning", "{earlyStopping: {patience: 10}, l2: {schedule: {kind: linear, end: 0.11}}}",
     "{earlyStopping: {patience: 10}, l2: {schedule: {kind: linear, end: 0.1}}}", PLAIN),
    ("R32", "error", "{calibration: {}}", "{calibration: {}}", PLAIN, HELD_BACK),
    ("R32", "error", "{calibration: {split: validation}, earlyStopping: {}}", "{calibration: {split: validation}}", PLAIN),
    ("R33", "automatic", "{ewc: {}}", "{l2: {}}", PLAIN),
    ("R33", "automatic", "{trustRegion: {}}", "{gradientClipping: {}}", PLAIN),
    ("R34", "error", "{augmentation: {policy: image.shift}}", "{augmentation: {policy: tabular.swapNoise}}", PLAIN),
    ("R34", "warning", "{augmentation: {policy: image.shift}}", "{augmentation: {policy: image.erase}}", CNN),
    ("R34", "warning", "{augmentation: {policy: image.shift}}", "{augmentation: {policy: image.shift}}", CNN, BIG_CNN),
    ("R38", "error", "{dropout: {}}", "{l2: {}}", RIDGE),
    ("R38", "warning", "{dropout: {}, earlyStopping: {}}", "{dropout: {p: 0}, earlyStopping: {}}", XGBOOST, XGBOOST),
    ("R38", "error", "{}", "{}", "{engine: {xgboost: {params: {scale_pos_weight: 15.8}}}}", XGBOOST),
    ("R38", "error", "{gradientClipping: {}}", "{dropout: {}}", XGBOOST, XGBOOST),
    ("R38", "error", "{l2: {}}", "{l2: {}, calibration: {}}", SVC, SVC),
]  # fmt: skip

MODALITIES: list[Case] = [
    ("R41", "error", "{noiseInjection: {}}", "{noiseInjection: {site: activation}}", TOKENS),
    ("R41", "error", "{augmentation: {policy: tabular.gaussian}}", "{augmentation: {policy: tabular.swapNoise}}", TOKENS),
    ("R41", "error", "{adversarial: {}}", "{dropout: {}}", TOKENS),
    ("R41", "error", "{batchMixing: {}}", "{labelSmoothing: {}}", TOKENS),
    ("R41", "error", "{}", "{}", f"{{data: {{{IDS}}}}}", PLAIN),
    ("R41", "error", "{}", "{}", "{torch: {architecture: {tokenTransformer: {}}}}", TOKENS),
    ("R41", "error", "{}", "{}", f"{{data: {{{IDS}}}, engine: {{xgboost: {{}}}}}}", "{engine: {xgboost: {}}}"),
    ("R41", "error", "{}", "{}", f"{{data: {{{IDS}}}}}",
     f"{{data: {{{IDS}}}, torch: {{architecture: {{custom: {{module: 'mine:build'}}}}}}}}"),
]  # fmt: skip

CASES: list[Case] = [*PRIVACY, *PENALTIES, *OBJECTIVES, *COMPRESSION, *PROCESS, *MODALITIES]
