-- The end of a namespace's log. ARGV: now, namespace. Answers the place of the newest command there ever was, or ''.
local last = last_place(P .. 'c/' .. ARGV[2] .. '/log')
if last ~= '' and is_beyond(last) then
  return text[day_ahead] .. '-0'
end
return last
