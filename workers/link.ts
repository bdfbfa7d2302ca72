/**
 * Linking WGSL: a kernel's text with the libraries it calls and the constants of a model, all bindings in one group. Text in,
 * text out; gpu.ts compiles what comes of it.
 */

/** A piece of WGSL that kernels link. Libraries that fill the same slot (matrix_*, sum_*) offer the same functions. */
export interface Library {
  name: string;
  source: string;
}

/**
 * One row of the shader table. `binds` are the variables of group 0 in binding order and `consts` the constants a caller
 * sets; both are checked against the WGSL when it is linked. `grid` gives workgroups [x, y, z] for so many tokens.
 */
export interface Kernel<Bind extends string = string, Const extends string = string> {
  name: string;
  source: string;
  binds: readonly Bind[];
  consts: readonly Const[];
  grid: (c: Record<Const, number>, tokens: number) => readonly [number, number, number];
}

/** Make a table row; the entry point is named as the row. */
export function kernel<const Bind extends string, const Const extends string>(
  name: string,
  source: string,
  row: {
    binds: readonly Bind[];
    consts: readonly Const[];
    grid: (c: Record<Const, number>, tokens: number) => readonly [number, number, number];
  },
): Kernel<Bind, Const> {
  return { name, source, ...row };
}

/**
 * Link one kernel: libraries first, directives hoisted and de-duplicated, `const NAME = value;` lines replaced by name.
 * Throws on a constant that no source declares, so a typing error cannot pass silently.
 */
export function link(name: string, sources: string[], consts: Record<string, number>): string {
  let code = sources.join('\n');
  const directive = /^(enable|requires|diagnostic)\b.*;$/gm;
  const directives = new Set(code.match(directive) ?? []);
  code = code.replace(directive, '');
  for (const [key, value] of Object.entries(consts)) {
    const line = new RegExp(`^const ${key} = [^;]*;`, 'm');
    const found = line.exec(code);
    if (!found) throw new Error(`${name}: no const ${key} to set`);
    const literal = /u;$/.test(found[0])
      ? `${value}u`
      : Number.isInteger(value)
        ? `${value}.0`
        : `${value}`;
    code = code.replace(line, `const ${key} = ${literal};`);
  }
  return [...directives, code].join('\n');
}

/**
 * All bindings of a linked text in one group, in order of the groups and bindings they were written with: each group set
 * costs a microsecond or more per call, and a token makes hundreds of calls.
 */
export function inOneGroup(code: string): string {
  const order = bindLines(code).map((l) => l.name);
  return code.replace(BIND_LINE, (line, _group, _binding, _space, _access, name: string) =>
    line.replace(/@group.*@binding\(\d+\)/, `@group(0) @binding(${order.indexOf(name)})`),
  );
}

export interface BindLine {
  /** As written: 0 activations and state, 1 weights, 2 the step. */
  group: number;
  binding: number;
  name: string;
  type: GPUBufferBindingType;
}

const BIND_LINE =
  /@group\((\d)\)\s*@binding\((\d+)\)\s*var<(uniform|storage)(?:,\s*(read|read_write))?>\s*(\w+)/g;

/** The `@group(g) @binding(b) var<...> name` lines of a text, in order of group and binding. */
export function bindLines(code: string): BindLine[] {
  const lines = code.matchAll(BIND_LINE);
  return [...lines]
    .map(([, group, binding, space, access, name]): BindLine => {
      const type =
        space === 'uniform' ? 'uniform' : access === 'read_write' ? 'storage' : 'read-only-storage';
      return { group: Number(group), binding: Number(binding), name: name!, type };
    })
    .sort((a, b) => a.group - b.group || a.binding - b.binding);
}
