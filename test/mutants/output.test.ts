import { outputMutants } from './output.ts';
import { testMutants } from './mutant.ts';

testMutants(outputMutants);
