" Has llama.vim (a1c8e6e) fill a hole in a headless neovim, or a vim of 9.1 or newer, and accepts what it shows; then has it
" rewrite two lines by an instruction. `run.sh` calls it. It reads from the environment LLAMA_VIM, the plugin's folder, SERVER, and
" OUT, the file for what comes of it.
set nocompatible encoding=utf-8 noswapfile nomore hidden
execute 'set runtimepath^=' . $LLAMA_VIM
let g:llama_config = { 'endpoint_fim': $SERVER . '/infill', 'endpoint_inst': $SERVER . '/v1/chat/completions',
    \ 'auto_fim': v:false, 't_max_predict_ms': 20000, 'n_predict': 24, 'enable_at_startup': v:true }
runtime plugin/llama.vim
call llama#init()
call setline(1, ['def fibonacci(n):', '    if n < 2:', '        return n', '    return ', '', 'print(fibonacci(9))'])
let g:tries = 0
let g:before = getline(1, '$')

function! Ask(timer)
    call llama#fim(-1, -1, v:false, [], v:false)
endfunction

function! End(line, failed)
    call writefile([a:line] + getline(1, '$'), $OUT)
    execute a:failed ? 'cquit!' : 'qall!'
endfunction

function! Look(timer)
    let g:tries += 1
    if llama#is_fim_hint_shown()
        call timer_stop(a:timer)
        call llama#fim_accept('full')
        call End('accepted:', getline(1, '$') ==# g:before)
    elseif g:tries > 200
        call End('nothing was shown', 1)
    endif
endfunction

call cursor(4, 99)
if has('nvim')
    " There is nobody to see the mode.
    call timer_start(300, 'Ask')
    call timer_start(200, 'Look', { 'repeat': -1 })
    startinsert!
else
    autocmd VimEnter * startinsert!
    call timer_start(300, 'Ask')
    call timer_start(200, 'Look', { 'repeat': -1 })
endif
