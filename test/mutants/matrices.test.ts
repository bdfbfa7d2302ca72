import { matrixMutants } from './matrices.ts';
import { testMutants } from './mutant.ts';

testMutants(matrixMutants);
