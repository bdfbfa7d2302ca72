import { layerMutants } from './layers.ts';
import { testMutants } from './mutant.ts';

testMutants(layerMutants);
