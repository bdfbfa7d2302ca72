/** Interventions in words, as they are listed beside the branch they made. */
import type { Intervention } from '../../workers/protocol.ts';
import { named } from './story.ts';

/** "forgetting × 0 from token 12 on, in 23 layers". */
export function interventionWords(intervention: Intervention, texts: readonly string[]): string {
  const { from, layers, heads } = intervention;
  const scope = layers.length === 1 ? `layer ${layers[0]}` : `${layers.length} layers`;
  const head = heads.length === 1 ? `, head ${heads[0]}` : '';
  const place = `in ${scope}${head}`;
  switch (intervention.kind) {
    case 'hold':
      return `held still from token ${from} on, ${place}`;
    case 'zero':
      return `emptied at token ${from}, ${place}`;
    case 'forgetting':
      return `forgetting × ${intervention.factor} from token ${from} on, ${place}`;
    case 'deaf':
      return `nothing written from token ${from} on, ${place}`;
    case 'forget':
      return `${named(texts[intervention.token] ?? '')} (token ${intervention.token}) forgotten at token ${from}, ${place}`;
    case 'swap':
      return `memory of branch ${intervention.branch} taken at token ${from}, ${place}`;
    default:
      return intervention satisfies never;
  }
}
