/* The start of tiles.c on an emulated x86-64 without a system: a multiboot kernel that maps 4 GiB, switches to 64 bits, enables
   all vector and tile registers that the CPU has, and calls main.  bare_machine.c has what main needs of a C library. */
    .text
    .code32
header:
    .long 0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
    .long header, header, _edata, _end, start
    .globl start
start:
    cli
    cld
    mov $stack_end, %esp
    mov $0x3fb, %edx    /* the first serial port: 8 bits */
    mov $3, %al
    outb %al, %dx
    mov $directory, %edi    /* 4 GiB in pages of 2 MiB, the address as it is */
    mov $0x83, %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pointers, %edi
    mov $directory + 3, %eax
    mov $4, %ecx
2:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b
    movl $pointers + 3, level4
    mov $small_pages, %edi    /* the 8 MiB from 0x2000000 in pages of 4 KiB, which mprotect takes away */
    mov $0x2000003, %eax
    mov $2048, %ecx
3:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 3b
    mov $directory + 16 * 8, %edi
    mov $small_pages + 3, %eax
    mov $4, %ecx
4:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 4b
    mov $level4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x40620, %eax    /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    mov %eax, %cr4
    mov $0xC0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $~0x6000000C, %eax    /* the cache on, x87 neither emulated nor switched */
    or $0x80000022, %eax
    mov %eax, %cr0
    lgdt table
    ljmp $8, $in_64_bits
    .code64
in_64_bits:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0xD, %eax
    xor %ecx, %ecx
    cpuid
    and $0x602e7, %eax    /* x87, SSE, AVX, AVX-512, protection keys, AMX */
    mov %eax, registers
    xor %ecx, %ecx
    xor %edx, %edx
    xsetbv
    mov $stack_end, %rsp
    xor %edi, %edi
    xor %esi, %esi
    call main
5:  hlt
    jmp 5b
    .data
    .align 8
segments: .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
table: .word 23
    .long segments
    .globl registers
    .align 8
registers: .quad 0
    .bss
    .align 4096
level4: .skip 4096
pointers: .skip 4096
directory: .skip 16384
    .globl small_pages
small_pages: .skip 16384
    .skip 262144
stack_end:
    .section .note.GNU-stack, "", @progbits
