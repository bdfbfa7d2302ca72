/**
 * One drawing, three ways out: onto a canvas at the screen's own pixels, into an SVG file, into a PNG.
 *
 * A view makes a `Drawing`, a list of marks in CSS pixels, y down; a `Palette` says what the colours are in the theme of
 * the moment. Nothing here knows of models or of Svelte.
 */
import { scaleLinear } from 'd3-scale';

/** The page's colours by name, as CSS writes them: #rrggbb. */
export interface Palette {
  paper: string;
  raised: string;
  sunk: string;
  ink: string;
  ink2: string;
  line: string;
  line2: string;
  accent: string;
  /** The other end of signed values: blue, which every common deficiency tells from vermilion. */
  cool: string;
}

const variables: Record<keyof Palette, string> = {
  paper: '--paper',
  raised: '--raised',
  sunk: '--sunk',
  ink: '--ink',
  ink2: '--ink-2',
  line: '--line',
  line2: '--line-2',
  accent: '--accent',
  cool: '--cool',
};

/** The colours that hold where `element` stands. */
export function paletteOf(element: Element): Palette {
  const style = getComputedStyle(element);
  const read = (name: keyof Palette) => style.getPropertyValue(variables[name]).trim();
  return Object.fromEntries(
    (Object.keys(variables) as (keyof Palette)[]).map((name) => [name, read(name)]),
  ) as unknown as Palette;
}

/** How numbers become colours: `ink` 0 (the paper) to 1 (ink); `signed` -1 (blue) over 0 (the paper) to 1 (vermilion). */
export type Ramp = 'ink' | 'signed';

/** Colours of a ramp from its lowest value to its highest. */
export const rampLevels = 65;

/** A ramp as `rampLevels` colours, #rrggbb or rgb(). */
export function rampColours(ramp: Ramp, palette: Palette): string[] {
  const scale =
    ramp === 'ink'
      ? scaleLinear<string>().domain([0, 1]).range([palette.paper, palette.ink])
      : scaleLinear<string>()
          .domain([-1, -0.5, 0, 0.5, 1])
          .range([
            mixed(palette.cool, palette.ink, 0.35),
            palette.cool,
            palette.paper,
            palette.accent,
            mixed(palette.accent, palette.ink, 0.35),
          ]);
  const [low] = scale.domain() as [number];
  return Array.from({ length: rampLevels }, (_, level) =>
    scale(low + ((1 - low) * level) / (rampLevels - 1)),
  );
}

function mixed(one: string, other: string, share: number): string {
  return scaleLinear<string>().range([one, other])(share);
}

/** Which of a ramp's colours a value has; values beyond the ends have those of the ends, NaN the paper's. */
export function levelOf(ramp: Ramp, value: number): number {
  const share = Number.isNaN(value)
    ? ramp === 'ink'
      ? 0
      : 0.5
    : ramp === 'ink'
      ? value
      : (value + 1) / 2;
  return Math.round(Math.min(1, Math.max(0, share)) * (rampLevels - 1));
}

/** A colour by the palette's name, or a value on a ramp. */
export type Colour = keyof Palette | { ramp: Ramp; value: number };

export type Mark =
  /** A heat map: values row by row, first row on top. */
  | {
      kind: 'cells';
      x: number;
      y: number;
      width: number;
      height: number;
      columns: number;
      rows: number;
      values: ArrayLike<number>;
      ramp: Ramp;
    }
  | { kind: 'rect'; x: number; y: number; width: number; height: number; fill: Colour }
  | {
      kind: 'frame';
      x: number;
      y: number;
      width: number;
      height: number;
      stroke: Colour;
      thick?: number;
    }
  /** x and y in turn. A NaN lifts the pen. */
  | { kind: 'line'; points: number[]; stroke: Colour; thick?: number; dash?: boolean }
  | { kind: 'area'; points: number[]; fill: Colour }
  | { kind: 'dot'; x: number; y: number; radius: number; fill: Colour }
  | {
      kind: 'text';
      x: number;
      y: number;
      text: string;
      fill: Colour;
      size?: number;
      align?: 'left' | 'center' | 'right';
      serif?: boolean;
    };

export interface Drawing {
  width: number;
  height: number;
  marks: Mark[];
}

/** The same kind of axis everywhere: small figures below a rule, where `at` says where a value stands. */
export function axisBelow(
  y: number,
  [left, right]: [number, number],
  ticks: { at: number; text: string }[],
): Mark[] {
  return [
    { kind: 'line', points: [left, y, right, y], stroke: 'line2' },
    ...ticks.flatMap(({ at, text }): Mark[] => [
      { kind: 'line', points: [at, y, at, y + 3], stroke: 'line2' },
      { kind: 'text', x: at, y: y + 14, text, fill: 'ink2', align: 'center' },
    ]),
  ];
}

// ---------------------------------------------------------------------------------------------- canvas

const textSize = 11;
const sans = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
const serif =
  '"Iowan Old Style", Charter, "Bitstream Charter", Palatino, "Noto Serif", Georgia, serif';

let measuring: OffscreenCanvasRenderingContext2D | null = null;

/** How wide a text in the reading face is, in CSS pixels. */
export function textWidth(text: string, size: number): number {
  measuring ??= new OffscreenCanvas(1, 1).getContext('2d')!;
  measuring.font = `${size}px ${serif}`;
  return measuring.measureText(text).width;
}

/** Colours of one painting, each computed once. */
function colouring(palette: Palette): (colour: Colour) => string {
  const ramps = new Map<Ramp, string[]>();
  return (colour) => {
    if (typeof colour === 'string') return palette[colour];
    const { ramp, value } = colour;
    let colours = ramps.get(ramp);
    if (!colours) ramps.set(ramp, (colours = rampColours(ramp, palette)));
    return colours[levelOf(ramp, value)]!;
  };
}

/** Paint a drawing on a canvas, `ratio` device pixels to a CSS pixel. The canvas takes the drawing's size. */
export function paint(
  canvas: HTMLCanvasElement | OffscreenCanvas,
  drawing: Drawing,
  palette: Palette,
  ratio: number,
): void {
  const [width, height] = [Math.round(drawing.width * ratio), Math.round(drawing.height * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const ctx = canvas.getContext('2d') as CanvasRenderingContext2D | null;
  if (!ctx) return;
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.clearRect(0, 0, width, height);
  const colourOf = colouring(palette);
  for (const mark of drawing.marks) {
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    switch (mark.kind) {
      case 'cells':
        paintCells(ctx, mark, palette, ratio);
        break;
      case 'rect':
        ctx.fillStyle = colourOf(mark.fill);
        ctx.fillRect(mark.x, mark.y, mark.width, mark.height);
        break;
      case 'frame': {
        const thick = mark.thick ?? 1;
        ctx.strokeStyle = colourOf(mark.stroke);
        ctx.lineWidth = thick;
        ctx.strokeRect(
          mark.x + thick / 2,
          mark.y + thick / 2,
          mark.width - thick,
          mark.height - thick,
        );
        break;
      }
      case 'line':
        ctx.strokeStyle = colourOf(mark.stroke);
        ctx.lineWidth = mark.thick ?? 1;
        ctx.lineJoin = 'round';
        ctx.setLineDash(mark.dash ? [3, 3] : []);
        ctx.beginPath();
        eachStroke(mark.points, (x, y, down) => (down ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
        ctx.stroke();
        break;
      case 'area':
        ctx.fillStyle = colourOf(mark.fill);
        ctx.beginPath();
        eachStroke(mark.points, (x, y, down) => (down ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
        ctx.fill();
        break;
      case 'dot':
        ctx.fillStyle = colourOf(mark.fill);
        ctx.beginPath();
        ctx.arc(mark.x, mark.y, mark.radius, 0, 2 * Math.PI);
        ctx.fill();
        break;
      case 'text':
        ctx.fillStyle = colourOf(mark.fill);
        ctx.font = `${mark.size ?? textSize}px ${mark.serif ? serif : sans}`;
        ctx.textAlign = mark.align ?? 'left';
        ctx.fillText(mark.text, mark.x, mark.y);
        break;
      default:
        mark satisfies never;
    }
  }
}

function eachStroke(points: number[], go: (x: number, y: number, down: boolean) => void): void {
  let down = false;
  for (let i = 0; i + 1 < points.length; i += 2) {
    const [x, y] = [points[i]!, points[i + 1]!];
    if (Number.isNaN(x) || Number.isNaN(y)) down = false;
    else {
      go(x, y, down);
      down = true;
    }
  }
}

/** Every cell as whole device pixels, whichever sizes they come to: no blur, no gaps, one image. */
function paintCells(
  ctx: CanvasRenderingContext2D,
  mark: Extract<Mark, { kind: 'cells' }>,
  palette: Palette,
  ratio: number,
): void {
  const [width, height] = [Math.round(mark.width * ratio), Math.round(mark.height * ratio)];
  if (width < 1 || height < 1 || mark.columns < 1 || mark.rows < 1) return;
  const colours = rampColours(mark.ramp, palette).map(packed);
  const image = ctx.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const columnOf = Uint32Array.from({ length: width }, (_, x) =>
    Math.floor((x * mark.columns) / width),
  );
  // More rows than pixels: the strongest of those that fall together is seen, so that nothing strong is lost.
  let filled = -1;
  for (let y = 0; y < height; y++) {
    const first = Math.floor((y * mark.rows) / height);
    const last = Math.max(first + 1, Math.floor(((y + 1) * mark.rows) / height));
    const from = y * width;
    if (first === filled && last === first + 1) {
      pixels.copyWithin(from, from - width, from);
      continue;
    }
    for (let x = 0; x < width; x++) {
      let value = mark.values[first * mark.columns + columnOf[x]!]!;
      for (let row = first + 1; row < last; row++) {
        const other = mark.values[row * mark.columns + columnOf[x]!]!;
        if (Math.abs(other) > Math.abs(value)) value = other;
      }
      pixels[from + x] = colours[levelOf(mark.ramp, value)]!;
    }
    filled = last === first + 1 ? first : -1;
  }
  // Pixels are put as they are: the transform holds for drawn shapes only.
  ctx.putImageData(image, Math.round(mark.x * ratio), Math.round(mark.y * ratio));
}

/** A colour as a pixel of ImageData: red in the lowest byte, opaque. */
function packed(colour: string): number {
  const [r = 0, g = 0, b = 0] = channels(colour);
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** Red, green and blue, 0 to 255, of #rrggbb or rgb(r, g, b). */
export function channels(colour: string): number[] {
  if (colour.startsWith('#')) return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return (colour.match(/[\d.]+/g) ?? []).slice(0, 3).map((number) => Math.round(Number(number)));
}

// ----------------------------------------------------------------------------------------------- files

/** A drawing as an SVG file, on the palette's paper. Heat maps stay vectors: one path a colour. */
export function toSvg(drawing: Drawing, palette: Palette): string {
  const colourOf = colouring(palette);
  const body = drawing.marks.map((mark) => svgMark(mark, colourOf, palette)).join('\n');
  const size = `width="${n(drawing.width)}" height="${n(drawing.height)}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} viewBox="0 0 ${n(drawing.width)} ${n(drawing.height)}">
<rect ${size} fill="${palette.paper}"/>
${body}
</svg>
`;
}

const n = (value: number) => String(Math.round(value * 100) / 100);

function svgMark(mark: Mark, colourOf: (colour: Colour) => string, palette: Palette): string {
  switch (mark.kind) {
    case 'cells':
      return svgCells(mark, palette);
    case 'rect':
      return `<rect ${svgBox(mark)} fill="${colourOf(mark.fill)}"/>`;
    case 'frame': {
      const thick = mark.thick ?? 1;
      const { x, y, width, height } = mark;
      const inset = {
        x: x + thick / 2,
        y: y + thick / 2,
        width: width - thick,
        height: height - thick,
      };
      return `<rect ${svgBox(inset)} fill="none" stroke="${colourOf(mark.stroke)}" stroke-width="${n(thick)}"/>`;
    }
    case 'line': {
      const dash = mark.dash ? ' stroke-dasharray="3 3"' : '';
      const stroke = `stroke="${colourOf(mark.stroke)}" stroke-width="${n(mark.thick ?? 1)}"`;
      return `<path d="${svgPath(mark.points)}" fill="none" stroke-linejoin="round" ${stroke}${dash}/>`;
    }
    case 'area':
      return `<path d="${svgPath(mark.points)}Z" fill="${colourOf(mark.fill)}"/>`;
    case 'dot':
      return `<circle cx="${n(mark.x)}" cy="${n(mark.y)}" r="${n(mark.radius)}" fill="${colourOf(mark.fill)}"/>`;
    case 'text': {
      const anchor = { left: 'start', center: 'middle', right: 'end' }[mark.align ?? 'left'];
      const family = (mark.serif ? serif : sans).replaceAll('"', "'");
      const font = `font-family="${family}" font-size="${mark.size ?? textSize}"`;
      return `<text x="${n(mark.x)}" y="${n(mark.y)}" text-anchor="${anchor}" xml:space="preserve" ${font} fill="${colourOf(mark.fill)}">${escaped(mark.text)}</text>`;
    }
    default:
      return mark satisfies never;
  }
}

function svgBox({
  x,
  y,
  width,
  height,
}: {
  x: number;
  y: number;
  width: number;
  height: number;
}): string {
  return `x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}"`;
}

function svgPath(points: number[]): string {
  let path = '';
  eachStroke(points, (x, y, down) => (path += `${down ? 'L' : 'M'}${n(x)} ${n(y)}`));
  return path;
}

/** Runs of one colour in a row are one rectangle, all rectangles of one colour one path. */
function svgCells(mark: Extract<Mark, { kind: 'cells' }>, palette: Palette): string {
  const { columns, rows, values, ramp } = mark;
  const paths = new Map<number, string>();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns;) {
      const level = levelOf(ramp, values[row * columns + column]!);
      const from = column;
      while (column < columns && levelOf(ramp, values[row * columns + column]!) === level) column++;
      paths.set(
        level,
        `${paths.get(level) ?? ''}M${from} ${row}h${column - from}v1h${from - column}z`,
      );
    }
  }
  const colours = rampColours(ramp, palette);
  const scale = `scale(${mark.width / columns} ${mark.height / rows})`;
  const drawn = [...paths].map(([level, path]) => `<path d="${path}" fill="${colours[level]}"/>`);
  return `<g transform="translate(${n(mark.x)} ${n(mark.y)}) ${scale}" shape-rendering="crispEdges">${drawn.join('')}</g>`;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** A drawing as a PNG file on its paper, three pixels to a CSS pixel: sharp in print at its size on screen. */
export async function toPng(drawing: Drawing, palette: Palette): Promise<Blob> {
  const ratio = 3;
  const canvas = new OffscreenCanvas(1, 1);
  paint(canvas, drawing, palette, ratio);
  // Under what is painted already: paint() begins by clearing.
  const ctx = canvas.getContext('2d');
  if (ctx) {
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.globalCompositeOperation = 'destination-over';
    ctx.fillStyle = palette.paper;
    ctx.fillRect(0, 0, canvas.width, canvas.height);
  }
  return canvas.convertToBlob({ type: 'image/png' });
}

/** The numbers of a view: what they are, and a table. Cells are as the model gave them, unrounded. */
export interface Numbers {
  about: Record<string, string | number>;
  columns: string[];
  rows: (string | number)[][];
}

/** As a spreadsheet reads it: quotes doubled, lines ended by CR LF (RFC 4180). */
export function toCsv({ columns, rows }: Numbers): string {
  const cell = (value: string | number) => {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(',') + '\r\n').join('');
}

/** JSON has no word for infinity or NaN: they become strings. */
export function toJson(numbers: Numbers): string {
  return JSON.stringify(numbers, (_, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  );
}
