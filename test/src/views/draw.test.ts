import { describe, expect, test } from 'vitest';
import {
  channels,
  levelOf,
  rampColours,
  rampLevels,
  toCsv,
  toJson,
  toSvg,
  type Palette,
} from '../../../src/views/draw.ts';

const palette: Palette = {
  paper: '#f7f2e8',
  raised: '#fcf9f2',
  sunk: '#eee7d9',
  ink: '#231e18',
  ink2: '#63594b',
  line: '#ddd3c1',
  line2: '#8b806f',
  accent: '#b0331a',
  cool: '#2a5f9e',
};

/** Relative luminance, WCAG 2. */
function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = channels(colour).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

describe('ramps', () => {
  test('nothing is the paper, in both', () => {
    expect(channels(rampColours('ink', palette)[levelOf('ink', 0)]!)).toEqual([247, 242, 232]);
    expect(channels(rampColours('signed', palette)[levelOf('signed', 0)]!)).toEqual([
      247, 242, 232,
    ]);
  });

  test('more ink is always darker, and so is more of either sign', () => {
    const ink = rampColours('ink', palette).map(luminance);
    const signed = rampColours('signed', palette).map(luminance);
    const middle = (rampLevels - 1) / 2;
    for (let level = 1; level < rampLevels; level++)
      expect(ink[level]).toBeLessThan(ink[level - 1]!);
    for (let level = 1; level <= middle; level++) {
      expect(signed[middle + level]).toBeLessThan(signed[middle + level - 1]!);
      expect(signed[middle - level]).toBeLessThan(signed[middle - level + 1]!);
    }
  });

  test('signs differ in blue against red, not in green alone', () => {
    const colours = rampColours('signed', palette).map(channels);
    expect(colours[8]![2]! - colours[8]![0]!).toBeGreaterThan(60);
    expect(colours[56]![0]! - colours[56]![2]!).toBeGreaterThan(60);
  });

  test('values beyond the ends have the ends’ colours, and no number has the paper’s', () => {
    expect(levelOf('ink', 7)).toBe(rampLevels - 1);
    expect(levelOf('ink', -1)).toBe(0);
    expect(levelOf('signed', -9)).toBe(0);
    expect(levelOf('ink', NaN)).toBe(levelOf('ink', 0));
    expect(levelOf('signed', NaN)).toBe(levelOf('signed', 0));
  });
});

describe('an SVG file', () => {
  const svg = toSvg(
    {
      width: 40,
      height: 20,
      marks: [
        {
          kind: 'cells',
          x: 0,
          y: 0,
          width: 40,
          height: 20,
          columns: 4,
          rows: 2,
          values: [0, 0, 1, 1, 1, 0, 0, 0],
          ramp: 'ink',
        },
        { kind: 'text', x: 1, y: 9, text: '<a & b>', fill: 'ink2' },
        { kind: 'line', points: [0, 0, 5, 5, NaN, NaN, 6, 6, 7, 7], stroke: 'accent' },
      ],
    },
    palette,
  );

  test('has its paper, and each run of equal cells once', () => {
    expect(svg).toContain('<rect width="40" height="20" fill="#f7f2e8"/>');
    const paths = [...svg.matchAll(/<path d="([^"]*)" fill="(rgb[^"]*|#[^"]*)"/g)];
    const runs = paths.filter(([, d]) => d!.includes('h')).map(([, d]) => d!.split('z').length - 1);
    expect(runs.sort()).toEqual([2, 2]);
    expect(svg).toContain('scale(10 10)');
  });

  test('escapes what is written, and lifts the pen where a value is missing', () => {
    expect(svg).toContain('&lt;a &amp; b&gt;');
    expect(svg).toContain('M0 0L5 5M6 6L7 7');
  });
});

describe('numbers', () => {
  const numbers = {
    about: { layer: 3 },
    columns: ['text', 'value'],
    rows: [
      ['a "b", c', 0.1],
      ['\n', Infinity],
    ],
  };

  test('as CSV: quoted where they must be', () => {
    expect(toCsv(numbers)).toBe('text,value\r\n"a ""b"", c",0.1\r\n"\n",Infinity\r\n');
  });

  test('as JSON: infinity survives as a word', () => {
    expect(JSON.parse(toJson(numbers))).toEqual({
      ...numbers,
      rows: [
        ['a "b", c', 0.1],
        ['\n', 'Infinity'],
      ],
    });
  });
});
