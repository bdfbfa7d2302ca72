import { layerMutants } from './layer.ts';
import { testMutants } from './mutant.ts';

testMutants(layerMutants);
