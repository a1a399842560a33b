import type { Command } from 'commander'

/** Adds a command, with its options and action, to the program. */
export type Register = (program: Command) => void

/** A command of the table. Its module is loaded only when it is called, so that `--help` is fast. */
export interface CommandRow {
  readonly name: string
  /** One line for `halfbyte --help`. */
  readonly summary: string
  readonly load: () => Promise<Register>
}

/** Every command, in the order in which a newcomer meets them. */
export const commands: readonly CommandRow[] = [
  {
    name: 'train',
    summary: 'pretrain a model: a preset, or a config file of your own',
    load: async () => (await import('./train.ts')).register,
  },
  {
    name: 'resume',
    summary: 'go on with an interrupted run',
    load: async () => (await import('./train.ts')).registerResume,
  },
  {
    name: 'branch',
    summary: 'go on from a checkpoint of a run under another recipe',
    load: async () => (await import('./branch.ts')).register,
  },
  {
    name: 'compare',
    summary: 'train under several recipes and seeds, and say what lies between them',
    load: async () => (await import('./compare.ts')).register,
  },
  {
    name: 'ablate',
    summary: "the paper's ablations, figure by figure, at your scale",
    load: async () => (await import('./ablate.ts')).register,
  },
  {
    name: 'report',
    summary: 'a page of a comparison or run, in one file to send to someone',
    load: async () => (await import('./report.ts')).register,
  },
  {
    name: 'sample',
    summary: 'continue a text with the model of a run',
    load: async () => (await import('./sample.ts')).register,
  },
  {
    name: 'validate',
    summary: 'loss of a run on held-out text, in its own recipe or another',
    load: async () => (await import('./validate.ts')).register,
  },
  {
    name: 'generate',
    summary: 'continue a text fast, from weights in BF16 or in the codes of training',
    load: async () => (await import('./generate.ts')).register,
  },
  {
    name: 'export',
    summary: 'write the weights of a run for transformers, vLLM, llama.cpp and others',
    load: async () => (await import('./export.ts')).register,
  },
  {
    name: 'import',
    summary: 'make a run of a Hugging Face checkpoint, to train it further',
    load: async () => (await import('./import.ts')).register,
  },
  {
    name: 'decompose',
    summary: 'what each product and each technique of a run’s recipe costs, from a checkpoint',
    load: async () => (await import('./decompose.ts')).register,
  },
  {
    name: 'sensitivity',
    summary: 'which linear layers a run’s recipe costs most; writes rules that keep them in BF16',
    load: async () => (await import('./sensitivity.ts')).register,
  },
  {
    name: 'plot',
    summary: 'loss curves of one run or several, as an SVG picture',
    load: async () => (await import('./plot.ts')).register,
  },
  {
    name: 'train-tokenizer',
    summary: 'byte-level BPE trained on your text, as a tokenizer.json',
    load: async () => (await import('./train_tokenizer.ts')).register,
  },
  {
    name: 'tokenize',
    summary: 'encode text files to shards that training reads from the disk',
    load: async () => (await import('./tokenize.ts')).register,
  },
  {
    name: 'presets',
    summary: 'the configs that come with halfbyte, in a table',
    load: async () => (await import('./presets.ts')).register,
  },
  {
    name: 'quantize',
    summary: 'matrices of a safetensors file to NVFP4, MX or FP8, and what that does to them',
    load: async () => (await import('./quantize.ts')).registerQuantize,
  },
  {
    name: 'dequantize',
    summary: 'what quantize wrote back to matrices of floats',
    load: async () => (await import('./dequantize.ts')).registerDequantize,
  },
  {
    name: 'doctor',
    summary: 'what this machine has: processor, compiler, GPU, libraries',
    load: async () => (await import('./doctor.ts')).register,
  },
]
