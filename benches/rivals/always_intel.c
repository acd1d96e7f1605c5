/* MKL asks this of the processor before it takes its AVX-512 path, and AMD's answer no although they
   have the instructions. Preloaded, it answers yes. */
int mkl_serv_intel_cpu_true(void) { return 1; }
